"""Rounding linears that read the same input in one call: rows are independent, so their weights are stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import QuantizedTensor
from slmquant.errors import NumericalError
from slmquant.methods._grids import grid_of
from slmquant.schemes.scheme import WeightSpec


def round_stacked(
    names: Sequence[str],
    weights: Sequence[Float[Tensor, "out in"]],
    spec: WeightSpec,
    round_rows: Callable[[Float[Tensor, "rows in"]], QuantizedTensor],
) -> list[QuantizedTensor]:
    """Codes of each weight, rounded together; one by one where scales span a whole weight.

    Raises:
        NumericalError: A solver met numbers that are not finite; the message names the linears.
    """
    try:
        if grid_of(spec).spans_rows:
            return [round_rows(weight) for weight in weights]
        stacked = round_rows(torch.cat(list(weights)))
    except NumericalError as error:
        raise NumericalError(f"{', '.join(names)}: {error}") from error
    stops = torch.tensor([len(weight) for weight in weights]).cumsum(0).tolist()
    return [stacked.rows(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
