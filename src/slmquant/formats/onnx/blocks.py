"""Weights as operands of ONNX Runtime's `MatMulNBits` and `GatherBlockQuantized`.

The layout is documented in ONNX Runtime (`docs/ContribOperators.md`): every row is cut into blocks of 16, 32, 64, 128
or 256 inputs, the last one padded; codes are unsigned, of 4 or 8 bits, packed from the low bits up;
`w = scale · (code − zero_point)`; a missing zero point means the middle code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.elements import Integers
from slmquant.core.pack import pack, unpack
from slmquant.formats.onnx.channels import Channels, stacked

BLOCK_SIZES = (16, 32, 64, 128, 256)
_CHANNEL_BLOCK = 128
"""Block size for per-channel scales: longer blocks round activations more coarsely, shorter ones store more."""
_NEAREST = Grid(bits=8, group_size=32, scale_bits=16)


@dataclass(frozen=True)
class Blocks:
    """Codes, scales and zero points, packed.

    Attributes:
        in_features: Inputs per row, without padding.
        bits: 4 or 8.
        block_size: Inputs per stored scale; a larger group repeats its scale.
        codes: Packed, padded to whole blocks.
        scale: float16 if that is exact, else float32.
        zero_point: Packed integers (uint8), or real numbers as float32; None for the middle code.
    """

    in_features: int
    bits: int
    block_size: int
    codes: UInt8[Tensor, "out blocks bytes"]
    scale: Float[Tensor, "out blocks"]
    zero_point: Shaped[Tensor, "out zeros"] | None

    @property
    def type(self) -> str:
        """`int4` or `int8`."""
        return f"int{self.bits}"

    @property
    def stored_bytes(self) -> int:
        """Size of all its tensors."""
        tensors = [self.codes, self.scale, *([] if self.zero_point is None else [self.zero_point])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def rows(self, start: int, stop: int) -> Blocks:
        """Output channels `start` to `stop`."""
        zero_point = None if self.zero_point is None else self.zero_point[start:stop]
        return replace(self, codes=self.codes[start:stop], scale=self.scale[start:stop], zero_point=zero_point)

    def dequantize(self) -> Float[Tensor, "out in"]:
        """The weight that the operators compute with, in float32."""
        out, blocks, octets = self.codes.shape
        padded = octets * 8 // self.bits * blocks
        codes = unpack(self.codes.reshape(out, -1), self.bits, padded, signed=False)[:, : self.in_features]
        zero_point = torch.full((out, blocks), 2.0 ** (self.bits - 1))
        if self.zero_point is not None and self.zero_point.dtype == torch.uint8:
            zero_point = unpack(self.zero_point, self.bits, blocks, signed=False).float()
        elif self.zero_point is not None:
            zero_point = self.zero_point.float()
        scale, zero_point = (
            groups.expand(values, self.block_size, self.in_features) for values in (self.scale.float(), zero_point)
        )
        return scale * (codes.float() - zero_point)


@dataclass(frozen=True)
class Dense:
    """A weight in float16 or float32; it is multiplied in float32 either way."""

    weight: Float[Tensor, "out in"]

    @property
    def type(self) -> str:
        """`f16` or `f32`."""
        return "f16" if self.weight.dtype == torch.float16 else "f32"

    @property
    def stored_bytes(self) -> int:
        """Size of the weight."""
        return self.weight.numel() * self.weight.element_size()

    def rows(self, start: int, stop: int) -> Dense:
        """Output channels `start` to `stop`."""
        return Dense(self.weight[start:stop])

    def dequantize(self) -> Float[Tensor, "out in"]:
        """The weight in float32."""
        return self.weight.float()


Stored = Blocks | Channels | Dense


def misfit(weight: QuantizedTensor, *, looked_up: bool) -> str | None:
    """Why the operators cannot hold these numbers exactly; None if they can.

    Args:
        weight: The weight.
        looked_up: Whether its rows are also looked up (an embedding); that operator has no padding and no real zero
            points.
    """
    if not isinstance(weight.grid.elements, Integers):
        return f"MatMulNBits multiplies integers, not {weight.grid.elements.name}"
    if _block_size(weight, whole=looked_up) is None:
        if looked_up and weight.codes.shape[1] % BLOCK_SIZES[0]:
            return f"GatherBlockQuantized needs rows of a multiple of 16, not of {weight.codes.shape[1]}"
        return f"MatMulNBits needs groups of a multiple of 16, not of {weight.group_size}"
    if weight.zero_point is not None and weight.zero_point.is_floating_point():
        if looked_up:
            return "GatherBlockQuantized has no real zero points (integers only)"
        if weight.bits > 4:
            return "MatMulNBits has real zero points for 4 bits only"
    return None


def blocks_of(weight: QuantizedTensor, *, looked_up: bool) -> Blocks:
    """The exact numbers of a weight that fits; codes of fewer bits are stored in 4 or 8."""
    size = _block_size(weight, whole=looked_up)
    assert size is not None, "the weight does not fit; check with misfit first"  # noqa: S101
    out, in_features = weight.codes.shape
    bits = 4 if weight.bits <= 4 else 8
    middle = 2 ** (bits - 1)
    codes = weight.codes.to(torch.int16)
    if weight.zero_point is None:
        codes = codes + middle
    blocks = groups.count(in_features, size)
    codes = torch.nn.functional.pad(codes, (0, blocks * size - in_features), value=middle)
    zero_point = None
    if weight.zero_point is not None:
        zero_point = _per_block(weight.zero_point, weight, size)
        zero_point = zero_point.float() if zero_point.is_floating_point() else pack(zero_point, bits)
    scale = _per_block(weight.scale, weight, size)
    half = scale.half()
    return Blocks(
        in_features=in_features,
        bits=bits,
        block_size=size,
        codes=pack(codes, bits).view(out, blocks, -1),
        scale=half if torch.equal(half.float(), scale) else scale,
        zero_point=zero_point,
    )


def nearest_int8(weight: Float[Tensor, "out in"], *, looked_up: bool) -> Blocks:
    """Round a weight to 8 bits in groups of 32."""
    return blocks_of(_NEAREST.quantize(weight), looked_up=looked_up)


def dense_of(weight: Float[Tensor, "out in"]) -> Dense:
    """A weight in float16, or in float32 if float16 would overflow."""
    half = weight.half()
    return Dense(half if bool(half.isfinite().all()) else weight.float())


def joined(parts: Sequence[Stored]) -> list[Stored]:
    """Concatenate stacked weights that read the same input: neighbours stored in the same way become one."""
    merged = list(parts[:1])
    for part in parts[1:]:
        last = merged[-1]
        both = stacked(last, part) if isinstance(last, Channels) and isinstance(part, Channels) else None
        if both is not None:
            merged[-1] = both
        elif isinstance(last, Dense) and isinstance(part, Dense) and last.type == part.type:
            merged[-1] = Dense(torch.cat([last.weight, part.weight]))
        elif isinstance(last, Blocks) and isinstance(part, Blocks) and _kind(last) == _kind(part):
            zeros = [b.zero_point for b in (last, part) if b.zero_point is not None]
            merged[-1] = replace(
                last,
                codes=torch.cat([last.codes, part.codes]),
                scale=torch.cat([last.scale, part.scale]),
                zero_point=torch.cat(zeros) if zeros else None,
            )
        else:
            merged.append(part)
    return merged


def _kind(blocks: Blocks) -> tuple[object, ...]:
    zeros = None if blocks.zero_point is None else blocks.zero_point.dtype
    return blocks.in_features, blocks.bits, blocks.block_size, blocks.scale.dtype, zeros


def _block_size(weight: QuantizedTensor, *, whole: bool) -> int | None:
    """The largest block that divides the groups, and with `whole` also the rows; None if there is none."""
    in_features = weight.codes.shape[1]
    if weight.group_size < in_features:
        divided, largest = weight.group_size, BLOCK_SIZES[-1]
    else:  # one scale per row, so blocks may end anywhere; no longer than the row
        largest = min(_CHANNEL_BLOCK, max(BLOCK_SIZES[0], 1 << (in_features - 1).bit_length()))
        divided = largest
    if whole:
        divided = math.gcd(divided, in_features)
    return max((size for size in BLOCK_SIZES if size <= largest and divided % size == 0), default=None)


def _per_block(values: Shaped[Tensor, "rows groups"], weight: QuantizedTensor, size: int) -> Tensor:
    """Repeat values per group for each block of the group."""
    out, in_features = weight.codes.shape
    group = torch.arange(groups.count(in_features, size)) * size // weight.group_size
    return values.expand(out, -1)[:, group].contiguous()
