"""Round to nearest: rounds each weight to the closest number of its grid.

Every number format has a grid, and every grid defines how it covers a range (`core.affine.Grid.cover`), so this method
supports all formats. It needs no data, one pass over the weights, and no memory beyond the current weight. It is the
baseline for every other method, and the default reference for the cost of quantizing.

Deviations: ternary weights (W1.58) do not cover a range; their scale minimises the squared error.

Cost: one pass over the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.methods.common.recipe import Recipe
from slmquant.schemes.scheme import WeightSpec


@dataclass(frozen=True)
class Nearest:
    """Takes scales from the range of each group and rounds to nearest."""

    needs: frozenset[Statistic] = frozenset()

    def refusal(self, spec: WeightSpec) -> str | None:
        """None: every number format is supported."""
        del spec
        return None

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; statistics are ignored."""
        del statistics
        return grid.quantize(weight)


METHOD = Recipe(
    title="RTN",
    summary="Rounds each weight to the nearest number of its grid; needs no data.",
    reference="Jacob et al., CVPR 2018, arXiv 1712.05877",
    rounding=Nearest(),
)
