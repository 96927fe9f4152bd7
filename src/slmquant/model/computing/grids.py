"""The grid of each number format of a scheme."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch

from slmquant.core import groups
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.codebooks import CODEBOOKS
from slmquant.core.elements import IQ4_NL, TABLES, TERNARY, Integers
from slmquant.core.scales import DoubleQuantized, Plain, PowerOfTwo, TensorScaled
from slmquant.core.superblocks import SUPER_BLOCK, OddScales, SuperBlocks
from slmquant.schemes import (
    GgufType,
    IntegerFormat,
    PerGroup,
    PerTensor,
    Scheme,
    TernaryFormat,
    WeightSpec,
)
from slmquant.schemes.mixtures import MixtureName

_UNITS = {"IQ3_S": 1.0, "IQ3_XXS": 1 / 4, "IQ2_S": 1 / 8}
"""What a scale of a codebook's type is a multiple of, beside `d`."""


def grid_of(spec: WeightSpec) -> Grid:
    """The grid of one weight format of a scheme.

    Raises:
        ValueError: slmquant cannot round to this type; `unsupported` says why.
    """
    numbers = spec.format
    if isinstance(numbers, GgufType):
        return _gguf(numbers)
    grouped = isinstance(spec.granularity, PerGroup)
    grid = Grid(
        bits=numbers.bits,
        symmetric=numbers.symmetric,
        scale_bits=spec.scale_bits,
        per_tensor=isinstance(spec.granularity, PerTensor),
    )
    if isinstance(spec.granularity, PerGroup):
        grid = replace(grid, group_size=spec.granularity.size)
    if isinstance(numbers, IntegerFormat):
        return grid
    if isinstance(numbers, TernaryFormat):
        return replace(grid, numbers=TERNARY, rule="least squares")
    if numbers.element is not None:
        grid = replace(grid, numbers=TABLES[numbers.element])
    if spec.double_quantized and grouped:
        return replace(grid, layout=DoubleQuantized(), scale_bits=32)
    if numbers.name == "NVFP4":
        return replace(grid, layout=TensorScaled(), scale_bits=32)
    if numbers.block_size is not None:
        return replace(grid, layout=PowerOfTwo(), scale_bits=32, rule="power")
    return grid


def _gguf(numbers: GgufType) -> Grid:
    """The grid of a GGUF type: blocks of 32 with one or two float16 numbers, or super-blocks of 256."""
    bits, size, symmetric = numbers.bits, numbers.block_size, numbers.symmetric
    match numbers.name:
        case "Q4_0" | "Q5_0":
            return Grid(bits, True, size, 16, rule="extreme")
        case "IQ4_NL":
            return Grid(bits, True, size, 16, numbers=IQ4_NL, rule="extreme")
        case "IQ4_XS":
            layout = SuperBlocks(SUPER_BLOCK // size, 6, holds_shift=False)
            return Grid(bits, True, size, numbers=IQ4_NL, rule="extreme", layout=layout)
        case "IQ3_S" | "IQ3_XXS" | "IQ2_S":
            book = CODEBOOKS[numbers.name]
            odd = OddScales(SUPER_BLOCK // size, _UNITS[numbers.name])
            return Grid(book.bits, True, size, numbers=book, layout=odd)
        case "Q8_0":
            return Grid(bits, True, size, 16, numbers=Integers(-127, 127))
        case "Q4_1" | "Q5_1":
            return Grid(bits, False, size, layout=Plain(16, holds_shift=True))
        case "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K":
            scale_bits = {"Q2_K": 4, "Q6_K": 8}.get(numbers.name, 6)
            layout = SuperBlocks(SUPER_BLOCK // size, scale_bits, holds_shift=not symmetric)
            return Grid(bits, symmetric, size, rule="extreme" if symmetric else "span", layout=layout)
        case name:
            raise ValueError(f"{name} is not a GGUF type of a single tensor; expected e.g. Q4_0 or Q4_K")


def stored_bits(spec: WeightSpec, rows: int, columns: int) -> int:
    """Bits of a weight of that shape on disk, as `QuantizedTensor.stored_bits`; no weight is needed."""
    return zeros(spec, rows, columns).stored_bits


def zeros(spec: WeightSpec, rows: int, columns: int) -> QuantizedTensor:
    """A weight whose codes are all 0; they share one byte of memory."""
    grid = grid_of(spec)
    scales = (1, 1) if grid.per_tensor else (rows, groups.count(columns, min(grid.group_size, columns)))
    parts = grid.cover(groups.Bounds(torch.zeros(scales), torch.zeros(scales))).parts or {}
    codes = torch.zeros((), dtype=torch.int8 if grid.elements.signed else torch.uint8).expand(rows, columns)
    return grid.restore(codes, parts)


def unsupported(scheme: Scheme) -> str | None:
    """Why no method supports the scheme's number format; None if `grid_of` does."""
    if scheme.special is None:
        return None
    name = scheme.special.name
    if name in ("F16", "BF16"):
        return f"{name} quantizes nothing; use W16A16 and method 'none'"
    if name.startswith("IQ"):
        return f"{name} is not supported; use IQ4_XS, IQ3_S, IQ3_XXS, IQ2_S, or one of Q2_K to Q6_K"
    pure = name.rpartition("_")[0]
    made = ", ".join(get_args(MixtureName))
    return f"the GGUF mixture {name} is not supported; use one of {made}, or the pure type {pure}"
