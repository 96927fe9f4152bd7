"""Weights as operands of ONNX's `MatMulInteger`, for schemes that round activations to 8 bits with a scale per token.

`MatMulInteger` multiplies integers with integers and adds them up in int32, so the product equals the evaluated one
but for the last rounding in float32. Both operands are unsigned with a zero point of 128: on processors without VNNI,
ONNX Runtime adds products of unsigned and signed bytes in 16 bits, which overflow; those of unsigned bytes do not.

One scale per output channel is all that such a product can have. `MatMulNBits`, which has groups, rounds activations
with a scale per block of its own instead, and so computes another model than the one evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from slmquant.core.affine import QuantizedTensor
from slmquant.core.elements import Integers

MIDDLE = 128
"""Zero point of symmetric codes and of activations."""


@dataclass(frozen=True)
class Channels:
    """Codes in bytes, with one scale per output channel.

    Attributes:
        codes: Unsigned; codes of fewer bits take a byte as well.
        scale: Of each output channel, float16 if that is exact, else float32.
        zero_point: Of each output channel.
    """

    codes: UInt8[Tensor, "out in"]
    scale: Float[Tensor, " out"]
    zero_point: UInt8[Tensor, " out"]

    @property
    def type(self) -> str:
        """`int8`."""
        return "int8"

    @property
    def stored_bytes(self) -> int:
        """Size of all its tensors."""
        return sum(part.numel() * part.element_size() for part in (self.codes, self.scale, self.zero_point))

    def rows(self, start: int, stop: int) -> Channels:
        """Output channels `start` to `stop`."""
        part = slice(start, stop)
        return replace(self, codes=self.codes[part], scale=self.scale[part], zero_point=self.zero_point[part])

    def dequantize(self) -> Float[Tensor, "out in"]:
        """The weight that the operator computes with, in float32."""
        return self.scale.float()[:, None] * (self.codes.float() - self.zero_point.float()[:, None])


def misfit(weight: QuantizedTensor) -> str | None:
    """Why `MatMulInteger` cannot multiply these numbers exactly; None if it can."""
    if not isinstance(weight.grid.elements, Integers):
        return f"MatMulInteger multiplies integers, not {weight.grid.elements.name}"
    if weight.group_size < weight.codes.shape[1]:
        return f"MatMulInteger has one scale per output channel, not groups of {weight.group_size}"
    if weight.zero_point is not None and weight.zero_point.is_floating_point():
        return "MatMulInteger has no real zero points (integers only)"
    return None


def channels_of(weight: QuantizedTensor) -> Channels:
    """The exact numbers of a weight that fits (`misfit`)."""
    out = len(weight.codes)
    symmetric = weight.zero_point is None
    codes = weight.codes.to(torch.int16) + (MIDDLE if symmetric else 0)
    zero_point = torch.tensor([[MIDDLE]]) if weight.zero_point is None else weight.zero_point
    scale = weight.scale.expand(out, 1)[:, 0].contiguous()
    half = scale.half()
    return Channels(
        codes=codes.to(torch.uint8),
        scale=half if torch.equal(half.float(), scale) else scale,
        zero_point=zero_point.expand(out, 1)[:, 0].to(torch.uint8).contiguous(),
    )


def stacked(first: Channels, second: Channels) -> Channels | None:
    """Two weights that read the same input as one; None if their scales are stored in different types."""
    if first.scale.dtype != second.scale.dtype:
        return None
    return Channels(
        codes=torch.cat([first.codes, second.codes]),
        scale=torch.cat([first.scale, second.scale]),
        zero_point=torch.cat([first.zero_point, second.zero_point]),
    )
