"""Layout of a quantized weight in OpenVINO IR: element types of codes, zero points and scales, and groups.

OpenVINO multiplies compressed weights of the types u2, u4, i4, u8, i8, nf4 and f4e2m1 directly; f8e4m3 and f8e5m2 are
unpacked when the model is compiled. Groups must divide the inputs. If a scheme's last group is shorter, the scales are
repeated over groups of the largest size that divides both, which gives the same weight: groups of 128 over 576 inputs
become groups of 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import QuantizedTensor
from slmquant.core.elements import Elements, Integers
from slmquant.core.minifloat import SMALLEST_HALF
from slmquant.core.scales import PowerOfTwo

TypeName = Literal["u2", "u4", "i4", "u8", "i8", "nf4", "f4e2m1", "f8e4m3", "f8e5m2", "f8e8m0", "f16", "f32"]
"""OpenVINO's names of element types."""

BITS: dict[TypeName, int] = {
    "u2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8, "nf4": 4, "f4e2m1": 4, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8,
    "f16": 16, "f32": 32,
}  # fmt: skip
"""Stored bits per element."""

_SMALLEST_COMMON_GROUP = 8
"""For smaller groups, the float16 scales take more space than the codes save."""
_TABLES: dict[str, TypeName] = {"NF4": "nf4", "E2M1": "f4e2m1", "E4M3": "f8e4m3", "E5M2": "f8e5m2"}
_WITHIN_E4M3 = ("E2M3", "E3M2")
"""6-bit floats whose values are all values of E4M3."""


class Part(NamedTuple):
    """One constant: torch values (bit patterns for small floats), and the type they are stored in."""

    values: Tensor
    type: TypeName

    @property
    def title(self) -> str:
        """Name of the type."""
        return self.type

    @property
    def stored_bytes(self) -> int:
        """Stored size, packed densely."""
        return -(-self.values.numel() * BITS[self.type] // 8)


@dataclass(frozen=True)
class Compressed:
    """`scale · (codes − zero_point)`, as constants.

    Attributes:
        codes: `(out, in)`, or `(out, groups, size)` with groups.
        zero_point: One per scale; None if the codes have none.
        scale: `(out, 1)`, or `(out, groups, 1)`.
    """

    codes: Part
    zero_point: Part | None
    scale: Part

    @property
    def stored_bytes(self) -> int:
        """Stored size of its constants."""
        zero_point = 0 if self.zero_point is None else self.zero_point.stored_bytes
        return self.codes.stored_bytes + zero_point + self.scale.stored_bytes

    @property
    def title(self) -> str:
        """`u4`, `u4, groups of 64`."""
        grouped = self.codes.values.dim() == 3
        return self.codes.type + (f", groups of {self.codes.values.shape[2]}" if grouped else "")


def misfit(weight: QuantizedTensor) -> str | None:
    """Why the codes of `weight` cannot be stored unchanged; None if they can."""
    size, group_size = weight.codes.shape[1], weight.group_size
    common = math.gcd(group_size, size)
    if common < min(group_size, _SMALLEST_COMMON_GROUP):
        fitting = [n for n in range(_SMALLEST_COMMON_GROUP, size + 1) if size % n == 0]
        advice = f"groups of {', '.join(map(str, fitting[:6]))} do" if fitting else "one scale per channel does"
        return f"groups of {group_size} do not divide {size} inputs; {advice}"
    elements = weight.grid.elements
    if not isinstance(elements, Integers) and elements.name not in (*_TABLES, *_WITHIN_E4M3):
        return f"OpenVINO has no type for the numbers of {elements.name}"
    return None


def compress(weight: QuantizedTensor) -> Compressed:
    """The constants that represent `weight` exactly, without its side branch.

    Raises:
        ValueError: `misfit` has a reason.
    """
    if (reason := misfit(weight)) is not None:
        raise ValueError(reason)
    out, size = weight.codes.shape
    group_size = math.gcd(weight.group_size, size)

    def regrouped(part: Part) -> Part:
        """One value per stored group of each row: `(out, groups, 1)`, or `(out, 1)` for whole rows."""
        columns = groups.expand(part.values.expand(out, -1), weight.group_size, size)[:, ::group_size]
        return Part((columns if group_size == size else columns[:, :, None]).contiguous(), part.type)

    codes, zero_point = _codes(weight)
    grouped = codes.values if group_size == size else codes.values.unflatten(1, (-1, group_size))
    return Compressed(
        codes=Part(grouped, codes.type),
        zero_point=None if zero_point is None else regrouped(zero_point),
        scale=regrouped(_scale(weight)),
    )


def nearest_i8(W: Float[Tensor, "out in"]) -> Compressed:
    """Round `W` to 8 bits with a float16 scale per row, for weights that cannot be stored as requested."""
    scale = (W.abs().amax(dim=1, keepdim=True) / 127).clamp(min=SMALLEST_HALF).half()
    codes = (W / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return Compressed(Part(codes, "i8"), None, Part(scale, "f16"))


def floats(values: Tensor) -> Part:
    """Numbers in float16 if that is exact, else in float32."""
    half = values.half()
    return Part(half, "f16") if torch.equal(half.float(), values.float()) else Part(values.float(), "f32")


def _codes(weight: QuantizedTensor) -> tuple[Part, Part | None]:
    """Codes of `(out, in)`, and zero points of `(rows, groups)`."""
    elements, codes = weight.grid.elements, weight.codes
    if not isinstance(elements, Integers):
        return _table_codes(elements, codes), None if weight.zero_point is None else floats(weight.zero_point)
    bits = elements.bits
    if elements.signed and bits == 2:  # OpenVINO has no i2
        offset = -elements.low
        shifted = (codes.to(torch.int16) + offset).to(torch.uint8)
        return Part(shifted, "u2"), Part(torch.full(weight.scale.shape, offset, dtype=torch.uint8), "u2")
    if elements.signed:
        return Part(codes, "i4" if bits <= 4 else "i8"), None
    kind: TypeName = "u2" if bits <= 2 else "u4" if bits <= 4 else "u8"
    if weight.zero_point is None:
        return Part(codes, kind), None
    is_integer = not weight.zero_point.is_floating_point()
    return Part(codes, kind), Part(weight.zero_point, kind) if is_integer else floats(weight.zero_point)


def _table_codes(elements: Elements, codes: Tensor) -> Part:
    if elements.name in _WITHIN_E4M3:
        return Part(elements.values(codes.float()).to(torch.float8_e4m3fn).view(torch.uint8), "f8e4m3")
    return Part(codes, _TABLES[elements.name])


def _scale(weight: QuantizedTensor) -> Part:
    """Scales of `(rows, groups)`: powers of two as f8e8m0, others in float16 if that is exact, else in float32."""
    if isinstance(weight.grid.storage, PowerOfTwo):
        return Part(weight.parts["scale"], "f8e8m0")
    return floats(weight.scale)
