"""Rounds linears that read the same input in one call, with their weights stacked, as rows are independent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import QuantizedTensor
from slmquant.errors import NumericalError
from slmquant.methods.common.parts import RoundRows
from slmquant.model.computing.grids import grid_of
from slmquant.schemes.scheme import WeightSpec


def round_stacked(
    weights: Mapping[str, Float[Tensor, "out in"]],
    specs: Mapping[str, WeightSpec],
    round_rows: RoundRows,
) -> dict[str, QuantizedTensor]:
    """Codes of each weight by name; weights of one format are rounded together, unless scales span a whole weight.

    Args:
        weights: Weights that read the same input, by name.
        specs: Number format of each weight, by name.
        round_rows: Rounds rows to a grid.

    Raises:
        NumericalError: A solver met numbers that are not finite; the message names the linears.
    """
    rounded: dict[str, QuantizedTensor] = {}
    for spec in dict.fromkeys(specs[name] for name in weights):
        grid, names = grid_of(spec), [name for name in weights if specs[name] == spec]
        try:
            if grid.spans_rows:
                rounded |= {name: round_rows(weights[name], grid) for name in names}
                continue
            stacked = round_rows(torch.cat([weights[name] for name in names]), grid)
        except NumericalError as error:
            raise NumericalError(f"{', '.join(names)}: {error}") from error
        stops = torch.tensor([len(weights[name]) for name in names]).cumsum(0).tolist()
        parts = [stacked.rows(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
        rounded |= zip(names, parts, strict=True)
    return {name: rounded[name] for name in weights}
