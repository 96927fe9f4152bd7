"""Scales and zero points, and their storage: in 16 or 32 bits, as powers of two, or in two levels.

A storage converts scales into parts (the tensors written to disk) and parts back into scales. A grid rounds scales to
storable values before it computes codes with them, so that nothing is lost when a weight is written and read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from slmquant.core.elements import TABLES
from slmquant.core.minifloat import E4M3, SMALLEST_HALF

Parts = Mapping[str, Shaped[Tensor, "..."]]
"""Stored tensors by name; the first dimension is that of the scales if the part has rows, else 1."""


@dataclass(frozen=True)
class AffineParams:
    """Scale and zero point of each group; `rows` is `out`, or 1 if the whole tensor shares one scale.

    Unpacks as `scale, zero_point`.

    Attributes:
        scale: Never 0. Positive, except for GGUF's types, which put the weight of largest magnitude on the lowest
            code, and for scales found by a search (`core.kquant`).
        zero_point: In units of codes, held as floats; all 0 if symmetric.
        parts: The stored form, if it came from a grid. It may be stale after a change of the numbers: `Grid.stored`
            recomputes parts that disagree with scale and zero point.
    """

    scale: Float[Tensor, "*shape"]
    zero_point: Float[Tensor, "*shape"]
    parts: Parts | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.scale, self.zero_point))


class Packing(NamedTuple):
    """Bit packing of a part of whole numbers, row by row."""

    bits: int
    signed: bool = False


class Stored(NamedTuple):
    """Scales after storing, and shifts if they are stored with the scales.

    Attributes:
        scale: Never 0.
        shift: The shift in `w = scale · code − shift`; None if zero points are stored separately.
    """

    scale: Float[Tensor, "*shape"]
    shift: Float[Tensor, "*shape"] | None = None


@runtime_checkable
class ScaleStorage(Protocol):
    """Interface of a storage of scales."""

    @property
    def name(self) -> str:
        """Name of the storage, used in descriptions of codes."""
        ...

    @property
    def holds_shift(self) -> bool:
        """Whether shifts are stored with the scales; otherwise zero points are stored separately."""
        ...

    @property
    def spans_groups(self) -> bool:
        """Whether the stored form of a scale depends on other scales of its row."""
        ...

    @property
    def spans_rows(self) -> bool:
        """Whether the stored form of a scale depends on scales of other rows."""
        ...

    @property
    def packings(self) -> Mapping[str, Packing]:
        """Parts that are packed; all others are stored in their own dtype."""
        ...

    def encode(self, scale: Float[Tensor, "*shape"], shift: Float[Tensor, "*shape"]) -> Parts:
        """Parts of the nearest storable scales. A scale of 0 (of a group of zeros) becomes a nonzero one."""
        ...

    def decode(self, parts: Parts) -> Stored:
        """Read scales from parts, in float32."""
        ...


@dataclass(frozen=True)
class Plain:
    """Each scale by itself, as a float16 or float32.

    Attributes:
        bits: 16 or 32.
        holds_shift: Whether a shift is stored too, in the same number of bits (GGUF's Q4_1 and Q5_1).
    """

    bits: int
    holds_shift: bool = False
    spans_groups = False
    spans_rows = False
    packings: ClassVar[Mapping[str, Packing]] = {}

    @property
    def name(self) -> str:
        """`float16`, `float32` or `float16 with shift`."""
        return f"float{self.bits}" + (" with shift" if self.holds_shift else "")

    def encode(self, scale: Float[Tensor, "*shape"], shift: Float[Tensor, "*shape"]) -> Parts:
        """Round to the dtype; a scale becomes at least the smallest float16 above 0, and a scale of 0 becomes 1.

        Scale and shift are clamped to the range of the dtype, since codes are computed with the stored values.
        """
        dtype = torch.float16 if self.bits == 16 else torch.float32
        if dtype == torch.float16:
            held = scale.abs().clamp(SMALLEST_HALF, torch.finfo(dtype).max).copysign(scale)
        else:
            held = scale
        parts = {"scale": torch.where(scale == 0, torch.ones_like(held), held).to(dtype)}
        largest = torch.finfo(dtype).max
        return parts | {"shift": shift.clamp(-largest, largest).to(dtype)} if self.holds_shift else parts

    def decode(self, parts: Parts) -> Stored:
        """The stored scales and shifts."""
        return Stored(parts["scale"].float(), parts["shift"].float() if self.holds_shift else None)


@dataclass(frozen=True)
class PowerOfTwo:
    """E8M0: the exponent of a power of two in 8 bits, the scale of the OCP microscaling formats."""

    name = "E8M0"
    holds_shift = False
    spans_groups = False
    spans_rows = False
    packings: ClassVar[Mapping[str, Packing]] = {}

    def encode(self, scale: Float[Tensor, "*shape"], shift: Float[Tensor, "*shape"]) -> Parts:
        """The nearest exponent, with bias 127; a scale of 0 becomes 1."""
        del shift
        exponent = torch.where(scale == 0, torch.zeros_like(scale), scale.log2().round())
        return {"scale": (exponent.clamp(-126, 127) + _E8M0_BIAS).to(torch.uint8)}

    def decode(self, parts: Parts) -> Stored:
        """`2^(code − 127)`."""
        exponent = parts["scale"].to(torch.int32) - _E8M0_BIAS
        return Stored(torch.ldexp(torch.ones(exponent.shape, device=exponent.device), exponent))


@dataclass(frozen=True)
class TensorScaled:
    """NVFP4's two levels: each scale as an FP8 E4M3, times one float32 for the whole tensor.

    The tensor's scale maps the largest scale to 448, the largest number of E4M3.
    """

    name = "E4M3 of tensor"
    holds_shift = False
    spans_groups = True
    spans_rows = True
    packings: ClassVar[Mapping[str, Packing]] = {}

    def encode(self, scale: Float[Tensor, "*shape"], shift: Float[Tensor, "*shape"]) -> Parts:
        """Nearest codes; a scale that would become 0 becomes the smallest number above 0."""
        del shift
        top = scale.amax().reshape(1, 1).float() / E4M3.largest
        top = torch.where(top > 0, top, torch.ones_like(top))
        codes = _FP8.nearest((scale / top).clamp(min=E4M3.smallest))
        return {"scale": codes.to(torch.uint8), "tensor_scale": top}

    def decode(self, parts: Parts) -> Stored:
        """The product of both levels."""
        return Stored(_FP8.values(parts["scale"].float()) * parts["tensor_scale"])


@dataclass(frozen=True)
class DoubleQuantized:
    """QLoRA's double quantization: scales minus their mean as 8-bit floats, in blocks of 256 with a float32 each.

    Dettmers et al., "QLoRA" (NeurIPS 2023, arXiv 2305.14314), section 3. Blocks continue across rows. The 8-bit float
    is E4M3; bitsandbytes uses a different one, with an exponent of varying length.
    """

    block: int = 256
    name = "double"
    holds_shift = False
    spans_groups = True
    spans_rows = True
    packings: ClassVar[Mapping[str, Packing]] = {}

    def encode(self, scale: Float[Tensor, "*shape"], shift: Float[Tensor, "*shape"]) -> Parts:
        """Nearest codes; if the nearest code would make a scale 0 or negative, the next one above."""
        del shift
        mean = scale.mean().reshape(1, 1).float()
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))
        rest = scale - mean
        flat = torch.nn.functional.pad(rest.flatten(), (0, -rest.numel() % self.block)).view(-1, self.block)
        largest = flat.abs().amax(dim=1).reshape(1, -1).float()
        block_scale = torch.where(largest > 0, largest / E4M3.largest, torch.ones_like(largest))
        codes = _FP8.nearest(rest / self._per_scale(block_scale, scale)).to(torch.uint8)
        parts = {"scale": codes, "block_scale": block_scale, "mean": mean}
        sunk = self.decode(parts).scale <= 0  # their remainders are negative: the previous bit pattern is closer to 0
        return parts | {"scale": torch.where(sunk, codes - 1, codes)}

    def decode(self, parts: Parts) -> Stored:
        """`mean + block_scale · code`."""
        values = _FP8.values(parts["scale"].float())
        return Stored(values * self._per_scale(parts["block_scale"], values) + parts["mean"])

    def _per_scale(self, block_scale: Tensor, scale: Tensor) -> Tensor:
        return block_scale.flatten().repeat_interleave(self.block)[: scale.numel()].view_as(scale)


_E8M0_BIAS = 127
_FP8 = TABLES["E4M3"]
