"""Convert one quantized weight to the tensors and facts of slmquant's own format, and back.

A weight `X` is stored as `X.codes` (packed according to its elements), one tensor for each part of its scales and zero
points (`X.scale`, `X.zero_point`, `X.d`, ...) and, if it has a side branch, `X.side_...`. Together they have exactly
`stored_bits` bits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from slmquant.core import elements, groups
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.elements import Integers
from slmquant.core.pack import pack, unpack
from slmquant.core.scale_rules import Rule
from slmquant.core.scales import DoubleQuantized, Plain, PowerOfTwo, ScaleStorage, TensorScaled
from slmquant.core.side import LowRank, OutlierColumns, Side
from slmquant.core.superblocks import OddScales, SuperBlocks

_STORAGES: dict[str, ScaleStorage] = {
    storage.name: storage
    for storage in (
        Plain(16),
        Plain(32),
        Plain(16, holds_shift=True),
        PowerOfTwo(),
        TensorScaled(),
        DoubleQuantized(),
        SuperBlocks(16, 4, holds_shift=True),
        SuperBlocks(8, 6, holds_shift=True),
        SuperBlocks(16, 6, holds_shift=False),
        SuperBlocks(8, 6, holds_shift=False),
        OddScales(8, 1.0),
        OddScales(8, 0.25),
        OddScales(16, 0.125),
        SuperBlocks(16, 8, holds_shift=False),
    )
}


class WeightFacts(BaseModel):
    """Facts about one quantized weight that its tensors do not contain."""

    model_config = ConfigDict(extra="forbid")
    in_features: int
    elements: str
    symmetric: bool
    group_size: int | None
    """None for one scale per row, or per tensor."""
    per_tensor: bool
    real_zero_point: bool
    rule: Rule
    scales: str
    parts: tuple[str, ...]
    """Tensors that hold scales and zero points."""
    side: Literal["low rank", "outlier columns"] | None


class WeightFacts1(BaseModel):
    """The facts in format version 1, for integers only."""

    model_config = ConfigDict(extra="forbid")
    bits: int
    in_features: int
    group_size: int
    scale_bits: int


def facts_of(weight: QuantizedTensor) -> WeightFacts:
    """The facts of a weight, to be stored with its tensors."""
    grid = weight.grid
    return WeightFacts(
        in_features=weight.codes.shape[1],
        elements=grid.elements.name,
        symmetric=grid.symmetric,
        group_size=None if grid.group_size == sys.maxsize else grid.group_size,
        per_tensor=grid.per_tensor,
        real_zero_point=grid.real_zero_point,
        rule=grid.rule,
        scales=grid.storage.name,
        parts=tuple(weight.parts),
        side=None if weight.side is None else "low rank" if isinstance(weight.side, LowRank) else "outlier columns",
    )


def encode_weight(weight: QuantizedTensor) -> dict[str, Tensor]:
    """The tensors of a weight, by the last part of their names."""
    tensors = {"codes": weight.grid.elements.pack(weight.codes)}
    for name, part in weight.parts.items():
        packing = weight.grid.packings.get(name)
        tensors[name] = part if packing is None else pack(part, packing.bits)
    if isinstance(weight.side, LowRank):
        tensors |= {"side_down": weight.side.down, "side_up": weight.side.up}
        if weight.side.scale is not None:
            tensors["side_scale"] = weight.side.scale
    elif weight.side is not None:
        tensors |= {"side_columns": weight.side.columns.to(torch.int32), "side_weight": weight.side.weight}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def decode_weight(tensors: Mapping[str, Tensor], name: str, facts: WeightFacts | WeightFacts1) -> QuantizedTensor:
    """Inverse of `encode_weight`; reads those of `tensors` whose names start with `name`.

    Raises:
        KeyError: A tensor is missing.
        ValueError: The size of a tensor contradicts the facts, or a fact has a value that is unknown in this version.
    """
    if isinstance(facts, WeightFacts1):
        names = [part for part in ("scale", "zero_point") if f"{name}.{part}" in tensors]
        grid, side = _grid1(tensors, name, facts), None
    else:
        names, grid, side = [*facts.parts], _grid(facts), _side(tensors, name, facts)
    codes = grid.elements.unpack(tensors[f"{name}.codes"], facts.in_features)
    columns = 1 if grid.per_tensor else groups.count(facts.in_features, min(grid.group_size, facts.in_features))
    parts = {part: tensors[f"{name}.{part}"] for part in names}
    for part, packing in grid.packings.items():
        parts[part] = unpack(parts[part], packing.bits, columns, packing.signed)
    return replace(grid.restore(codes, parts), side=side)


def _grid(facts: WeightFacts) -> Grid:
    if facts.scales not in _STORAGES:
        raise ValueError(f"scales are stored as {facts.scales!r}; expected one of {', '.join(_STORAGES)}")
    numbers, storage = elements.by_name(facts.elements), _STORAGES[facts.scales]
    plain = isinstance(storage, Plain) and not storage.holds_shift
    ordinary = numbers == Integers.of(numbers.bits, facts.symmetric)
    return Grid(
        bits=numbers.bits,
        symmetric=facts.symmetric,
        group_size=facts.group_size or sys.maxsize,
        scale_bits=storage.bits if isinstance(storage, Plain) and plain else 32,
        per_tensor=facts.per_tensor,
        real_zero_point=facts.real_zero_point,
        numbers=None if ordinary else numbers,
        rule=facts.rule,
        layout=None if plain else storage,
    )


def _grid1(tensors: Mapping[str, Tensor], name: str, facts: WeightFacts1) -> Grid:
    per_tensor = tensors[f"{name}.scale"].numel() == 1 and tensors[f"{name}.codes"].shape[0] > 1
    return Grid(facts.bits, f"{name}.zero_point" not in tensors, facts.group_size, facts.scale_bits, per_tensor)


def _side(tensors: Mapping[str, Tensor], name: str, facts: WeightFacts) -> Side | None:
    if facts.side == "low rank":
        return LowRank(tensors[f"{name}.side_down"], tensors[f"{name}.side_up"], tensors.get(f"{name}.side_scale"))
    if facts.side == "outlier columns":
        return OutlierColumns(tensors[f"{name}.side_columns"].long(), tensors[f"{name}.side_weight"])
    return None
