"""Integer quantization: the map `w ≈ scale · (code − zero_point)` and its parameters.

Symmetric codes lie in `[−2^(b−1), 2^(b−1) − 1]` with no zero point; asymmetric ones in `[0, 2^b − 1]`.
The convention is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), eq. 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from slmquant.core import groups
from slmquant.core.pack import packed_bytes
from slmquant.core.side import Side

_HALF_BITS = 16


class CodeRange(NamedTuple):
    """Smallest and largest code, both included."""

    low: int
    high: int


class AffineParams(NamedTuple):
    """Scale and zero point of each group; `rows` is `out`, or 1 where the whole tensor shares one scale.

    Attributes:
        scale: Positive.
        zero_point: Whole numbers held as floats; all 0 where symmetric.
    """

    scale: Float[Tensor, "rows groups"]
    zero_point: Float[Tensor, "rows groups"]


@dataclass(frozen=True)
class Grid:
    """The integers that a weight is rounded to.

    Attributes:
        bits: Bits of a code, 2 to 8.
        symmetric: Whether codes are centred on 0.
        group_size: Inputs of a channel that share a scale; at least `in` for one scale per channel.
        scale_bits: Stored bits of a scale, 16 (float16) or 32.
        per_tensor: One scale for the whole weight.
    """

    bits: int
    symmetric: bool = True
    group_size: int = sys.maxsize
    scale_bits: int = 32
    per_tensor: bool = False

    @property
    def code_range(self) -> CodeRange:
        """The codes that `bits` bits can hold."""
        if self.symmetric:
            return CodeRange(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        return CodeRange(0, 2**self.bits - 1)

    def fit(self, W: Float[Tensor, "out in"]) -> AffineParams:
        """Parameters that cover the range of each group of `W`, or of all of it."""
        if self.per_tensor:
            return self.cover(groups.Bounds(*(bound.reshape(1, 1) for bound in torch.aminmax(W))))
        return self.cover(groups.bounds(W, min(self.group_size, W.shape[1])))

    def cover(self, bounds: groups.Bounds) -> AffineParams:
        """Parameters that cover given ranges.

        Symmetric: `scale = max|w| / ((2^b − 1) / 2)`, so that both sides of the code range are used and only the
        extreme positive value is clipped, by half a step; this is the convention of GPTQ's code and of
        compressed-tensors. Asymmetric: the range is widened to hold 0, so that 0 is exact. A group of zeros gets
        scale 1 and codes that stand for 0.

        A scale is rounded to what will be stored before any code is computed with it.
        """
        low, high = bounds
        if self.symmetric:
            span = 2 * torch.maximum(low.abs(), high.abs())
        else:
            low, high = low.clamp(max=0), high.clamp(min=0)
            span = high - low
        scale = self.storable(span / (self.code_range.high - self.code_range.low))
        scale = torch.where(span > 0, scale, torch.ones_like(scale))
        if self.symmetric:
            return AffineParams(scale, torch.zeros_like(scale))
        return AffineParams(scale, (-low / scale).round().clamp(*self.code_range))

    def storable(self, scale: Tensor) -> Tensor:
        """Positive scales rounded to what will be stored, in the dtype that they came in."""
        if self.scale_bits != _HALF_BITS:
            return scale
        half = torch.finfo(torch.float16)
        return scale.clamp(half.smallest_normal, half.max).half().to(scale.dtype)

    def encode(self, W: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Nearest codes, held as floats, for scales and zero points that broadcast against `W`."""
        return (W / scale + zero_point).round_().clamp_(*self.code_range)

    def decode(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """What codes stand for, for scales and zero points that broadcast against `codes`."""
        return scale * (codes - zero_point)

    def quantize(self, W: Float[Tensor, "out in"], affine: AffineParams | None = None) -> QuantizedTensor:
        """Round to nearest; parameters are fitted where none are given."""
        affine = affine or self.fit(W)
        size = W.shape[1]
        scale, zero_point = (groups.expand(values, min(self.group_size, size), size) for values in affine)
        return self.assemble(self.encode(W, scale, zero_point), affine)

    def assemble(self, codes: Float[Tensor, "out in"], affine: AffineParams) -> QuantizedTensor:
        """Codes held as floats, with their parameters, as a `QuantizedTensor`."""
        return QuantizedTensor(
            codes=codes.to(torch.int8 if self.symmetric else torch.uint8),
            scale=affine.scale.float().contiguous(),
            zero_point=None if self.symmetric else affine.zero_point.to(torch.uint8).contiguous(),
            bits=self.bits,
            group_size=min(self.group_size, codes.shape[1]),
            scale_bits=self.scale_bits,
        )


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight as codes, scales and zero points; `dequantize()` gives the real numbers that it stands for.

    A side branch, where there is one, is part of the weight: `dequantize()`, `rows()` and `stored_bits` include it.
    `replace(weight, side=None)` is the codes' own share.

    Attributes:
        codes: int8 (symmetric) or uint8 (asymmetric).
        scale: float32, exactly representable in the `scale_bits` that it is stored in.
        zero_point: uint8; None where symmetric.
        bits: Bits of a code.
        group_size: Inputs that share a scale; `in` where a channel has one scale.
        scale_bits: Stored bits of a scale, 16 (float16) or 32.
        side: What is kept in 16 bits beside the codes; None for most methods.
    """

    codes: Shaped[Tensor, "out in"]
    scale: Float[Tensor, "rows groups"]
    zero_point: Shaped[Tensor, "rows groups"] | None
    bits: int
    group_size: int
    scale_bits: int
    side: Side | None = None

    def centred(self) -> Float[Tensor, "out in"]:
        """`code − zero_point` in float32: whole numbers from −255 to 255, exact even in bfloat16."""
        codes = self.codes.float()
        if self.zero_point is None:
            return codes
        return codes - groups.expand(self.zero_point.float(), self.group_size, codes.shape[1])

    def dequantize(self) -> Float[Tensor, "out in"]:
        """`scale · (code − zero_point)`, and the side branch onto it, in float32."""
        dense = self.centred() * groups.expand(self.scale, self.group_size, self.codes.shape[1])
        return dense if self.side is None else self.side.onto(dense)

    def rows(self, start: int, stop: int) -> QuantizedTensor:
        """Output channels `start` to `stop`."""
        side = None if self.side is None else self.side.rows(start, stop)
        if self.scale.shape[0] == 1 and self.codes.shape[0] > 1:
            return replace(self, codes=self.codes[start:stop], side=side)
        zero_point = None if self.zero_point is None else self.zero_point[start:stop]
        scale = self.scale[start:stop]
        return replace(self, codes=self.codes[start:stop], scale=scale, zero_point=zero_point, side=side)

    @property
    def stored_bits(self) -> int:
        """Bits on disk of codes, scales, zero points and side branch; codes are packed densely, row by row."""
        rows, size = self.codes.shape
        zero_bits = 0
        side_bits = 0 if self.side is None else self.side.stored_bits
        if self.zero_point is not None:
            zero_bits = self.zero_point.shape[0] * packed_bytes(self.zero_point.shape[1], self.bits) * 8
        return rows * packed_bytes(size, self.bits) * 8 + self.scale.numel() * self.scale_bits + zero_bits + side_bits


class TokenCodes(NamedTuple):
    """Activations as whole numbers and one scale for each token (or one for all)."""

    codes: Float[Tensor, "*tokens in"]
    scale: Float[Tensor, "*#tokens 1"]


def encode_activations(x: Float[Tensor, "*tokens in"], bits: int, scale: Float[Tensor, ""] | None = None) -> TokenCodes:
    """Symmetric integer codes of activations, in the dtype of `x` (whole numbers, exact in bfloat16).

    Args:
        x: Activations.
        bits: Bits of a code, at most 8.
        scale: A calibrated scale for the whole tensor; None finds one for each token from its largest value,
            `max|x| / (2^(b−1) − 1)`. A token of zeros gets scale 1.
    """
    limit = 2 ** (bits - 1) - 1
    if scale is None:
        largest = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.where(largest > 0, largest / limit, torch.ones_like(largest))
        return TokenCodes((x / scale).round_().to(x.dtype), scale)  # no code lies beyond the limit
    return TokenCodes((x / scale).round_().clamp_(-limit - 1, limit).to(x.dtype), scale)
