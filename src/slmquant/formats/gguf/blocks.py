"""ggml's blocks: pack codes and scales of a quantized weight into llama.cpp's bytes, without rounding codes again.

A row is cut into blocks of 32 inputs, each with one float16 scale (`w = d · q`) or two numbers (`w = d · q + m`), or
into super-blocks of 256 (see `core.superblocks`). A weight fits a type if its scale is the same for all inputs of each
block, and if its codes are integers that the type can hold. Numbers that are multiples of one step, such as those of
FP4 and FP6 E2M3, are integers with another scale.

Layouts: `ggml-common.h` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import QuantizedTensor
from slmquant.core.elements import IQ4_NL, Elements, Integers
from slmquant.core.scales import PowerOfTwo
from slmquant.core.superblocks import SUPER_BLOCK, OddScales, SuperBlocks
from slmquant.formats.gguf.super_blocks import BLOCK, Bytes, blocks_of, halves, nibbles, octets, super_blocks


class _Plain(NamedTuple):
    """A type with blocks of 32: its range of codes, and whether each block stores an offset `m`."""

    low: int
    high: int
    offset: bool


_PLAIN: Mapping[str, _Plain] = {  # smallest first
    "Q4_0": _Plain(-8, 7, offset=False),
    "Q4_1": _Plain(0, 15, offset=True),
    "Q5_0": _Plain(-16, 15, offset=False),
    "Q5_1": _Plain(0, 31, offset=True),
    "Q8_0": _Plain(-128, 127, offset=False),
}
_SUPER: Mapping[tuple[SuperBlocks | OddScales, int], str] = {
    (SuperBlocks(16, 4, holds_shift=True), 2): "Q2_K",
    (SuperBlocks(16, 6, holds_shift=False), 3): "Q3_K",
    (SuperBlocks(8, 6, holds_shift=False), 4): "IQ4_XS",
    (SuperBlocks(8, 6, holds_shift=True), 4): "Q4_K",
    (SuperBlocks(8, 6, holds_shift=True), 5): "Q5_K",
    (SuperBlocks(16, 8, holds_shift=False), 6): "Q6_K",
    (OddScales(8, 1.0), 5): "IQ3_S",
    (OddScales(8, 0.25), 7): "IQ3_XXS",
    (OddScales(16, 0.125), 7): "IQ2_S",
}
"""Scales, and bits of a code that is not packed → type."""
_HALF_A_STEP = 0.5


@dataclass(frozen=True)
class Fit:
    """The type that holds a weight's codes unchanged, or the reason why there is none."""

    type: str | None = None
    reason: str | None = None


def fit(weight: QuantizedTensor) -> Fit:
    """The smallest ggml type that holds `weight` without rounding anything but scales (to float16)."""
    grid, size = weight.grid, weight.codes.shape[1]
    if isinstance(grid.storage, SuperBlocks | OddScales):
        name = _SUPER[grid.storage, grid.bits]
        if size % SUPER_BLOCK:
            return Fit(reason=f"its rows of {size} are not a multiple of {SUPER_BLOCK}, the block size of {name}")
        return Fit(name)
    if size % BLOCK:
        return Fit(reason=f"its rows of {size} are not a multiple of {BLOCK}, the block size")
    if weight.group_size % BLOCK:
        return Fit(reason=f"groups of {weight.group_size} are not a multiple of {BLOCK}, the block size")
    if _is_mxfp4(weight):
        return Fit("MXFP4")
    if weight.grid.elements == IQ4_NL:
        reason = _rounding(weight, 1.0, offset=False)
        return Fit(reason=reason) if reason else Fit(IQ4_NL.name)
    step = _step(grid.elements)
    if step is None:
        return Fit(
            reason=f"no type holds the numbers of {grid.elements.name}: they are not multiples of one step, up to 127"
        )
    for name, plain in _PLAIN.items():
        if _holds(plain, weight, step):
            reason = _rounding(weight, step, plain.offset)
            return Fit(reason=reason) if reason else Fit(name)
    return Fit(reason=f"no type has {grid.bits}-bit codes with zero points")


def encode(weight: QuantizedTensor, name: str) -> Bytes:
    """Pack `weight` into blocks of the type that `fit` chose."""
    rows = weight.codes.shape[0]
    if name in _SUPER.values():
        blocks = super_blocks(weight, name)
    elif name == "MXFP4":
        exponents = _per_block(weight, weight.parts["scale"]).to(torch.uint8)
        blocks = np.concatenate([octets(exponents.reshape(-1, 1)), nibbles(blocks_of(weight.codes))], axis=1)
    elif name == IQ4_NL.name:
        scales = halves(_per_block(weight, weight.scale))
        blocks = np.concatenate([scales, nibbles(blocks_of(weight.codes))], axis=1)
    else:
        blocks = _plain_blocks(weight, name)
    return blocks.reshape(rows, -1)


def _holds(plain: _Plain, weight: QuantizedTensor, step: float) -> bool:
    elements, low, high = weight.grid.elements, 0, 0
    if weight.zero_point is None:
        if plain.offset:
            return False
        low, high = round(elements.low / step), round(elements.high / step)
    elif plain.offset:
        low, high = int(elements.low), int(elements.high)
    elif weight.zero_point.is_floating_point():
        return False
    else:  # a code minus an integer zero point is an integer, too
        low, high = int(elements.low - elements.high), int(elements.high - elements.low)
    return plain.low <= low and high <= plain.high


def _is_mxfp4(weight: QuantizedTensor) -> bool:
    grid = weight.grid
    return grid.elements.name == "E2M1" and isinstance(grid.storage, PowerOfTwo) and weight.group_size == BLOCK


def _step(elements: Elements) -> float | None:
    """The step that all elements are multiples of, up to 127 times; None if there is none."""
    if isinstance(elements, Integers):
        return 1.0
    values = elements.values(torch.arange(2**elements.bits).float())
    values = values[values.isfinite()]
    step = float(values[values > 0].min())
    multiples = values / step
    return step if torch.equal(multiples, multiples.round()) and float(multiples.abs().max()) <= 127 else None


def _rounding(weight: QuantizedTensor, step: float, offset: bool) -> str | None:
    """Error text if rounding scales to float16 moves a weight by more than half a step; else None."""
    scale, elements = weight.scale * step, weight.grid.elements
    largest = max(-elements.low, elements.high) / step
    reach = largest if weight.zero_point is None else elements.high - elements.low
    moved = (scale.half().float() - scale).abs() * reach
    if offset:
        minimum = _minimum(weight)
        moved = torch.maximum(moved, (minimum.half().float() - minimum).abs())
    worst = int((moved / scale.abs()).nan_to_num(torch.inf, torch.inf).argmax())
    if not float(moved.flatten()[worst]) <= _HALF_A_STEP * float(scale.abs().flatten()[worst]):
        return f"its scale {float(scale.flatten()[worst]):.3g} does not fit float16 to within half a step of its codes"
    return None


def _minimum(weight: QuantizedTensor) -> Tensor:
    """The value of code 0, `(rows, groups)` in float32."""
    if "shift" in weight.parts:
        return -weight.parts["shift"].float()
    if weight.zero_point is None:
        raise ValueError("a symmetric weight has no minimum")
    return -weight.scale * weight.zero_point.float()


def _plain_blocks(weight: QuantizedTensor, name: str) -> Bytes:
    plain, step = _PLAIN[name], _step(weight.grid.elements) or 1.0
    head = [halves(_per_block(weight, weight.scale * step))]
    if plain.offset:
        head.append(halves(_per_block(weight, _minimum(weight))))
        codes = weight.codes
    else:
        codes = (weight.centred() / step).round().to(torch.int16)
    if name == "Q8_0":
        return np.concatenate([*head, octets(blocks_of(codes.to(torch.int8)))], axis=1)
    counted = (codes - plain.low).to(torch.uint8)
    blocks = blocks_of(counted)
    if plain.high - plain.low > 15:
        head.append(_fifth_bits(blocks))
    return np.concatenate([*head, nibbles(blocks)], axis=1)


def _per_block(weight: QuantizedTensor, values: Tensor) -> Tensor:
    """Expand `(rows, groups)` numbers to one per block, `(rows, blocks)`."""
    rows, size = weight.codes.shape
    return groups.expand(values, weight.group_size, size)[:, ::BLOCK].expand(rows, -1)


def _fifth_bits(blocks: Tensor) -> Bytes:
    """Bit 4 of each code, eight per byte, the first one lowest."""
    return np.packbits(octets(blocks >> 4), axis=1, bitorder="little")
