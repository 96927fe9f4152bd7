"""GPTQ: rounds column by column and lets the columns that follow make up for each error.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv 2210.17323. Minimises `‖(W − Ŵ) X‖²` over the calibration inputs `X`, in the order
of the columns, with the closed-form update of Optimal Brain Surgeon (algorithm 1 of the paper).

Deviations:
    * One pass: all Hessians come from the full-precision model. The authors quantize block after block and feed
      each from the quantized ones before it. One pass lets every cell of a run share its Hessians.
    * Hessians of linears that read the same input are one Hessian, and their rows are solved together.
    * Columns go by decreasing diagonal of the Hessian (`act_order`, which the authors' code offers and recommends;
      the paper itself keeps the natural order), with static groups as compressed-tensors has them, not groups of
      the sorted order. On a small model the natural order spoils the keys of the attention sink, see `gptq_sink`.
    * The head is rounded under the Hessian of its own inputs; an embedding that is no head reads no input and is
      rounded to nearest.

Cost: one forward pass over the calibration tokens; an `in × in` float32 Hessian for each distinct input, read from
disk one at a time; for each a Cholesky factorisation in float64 and `O(out · in²)` work.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import HESSIANS, InputStatistics, Statistic
from slmquant.core.affine import AffineParams, Grid, QuantizedTensor
from slmquant.core.gptq import Scales, gptq, searched_scales
from slmquant.core.hessian import Weighting, with_first_tokens
from slmquant.methods.common.recipe import Recipe
from slmquant.model.computing.grids import grid_of
from slmquant.schemes.scheme import WeightSpec


@dataclass(frozen=True)
class Gptq:
    """Column by column with error feedback.

    Attributes:
        damp: Fraction of the Hessian's mean diagonal that is added to its diagonal.
        act_order: Whether columns go by decreasing diagonal of the Hessian.
        weighting: What a token counts for in the Hessian; the paper's is `uniform`.
        sink_share: Share of the Hessian that comes from the first token of each window alone; see `gptq_sink`.
        scales: Whether scales cover ranges or are searched, see `core.gptq.Scales`.
    """

    damp: float = 0.01
    act_order: bool = True
    weighting: Weighting = "uniform"
    sink_share: float = 0.0
    scales: Scales = "range"

    @property
    def needs(self) -> frozenset[Statistic]:
        """The Hessian of its weighting."""
        return frozenset({HESSIANS[self.weighting]})

    def refusal(self, spec: WeightSpec) -> str | None:
        """Any grid will do for rounding columns to its nearest number; scales are searched for integers alone."""
        grid = grid_of(spec)
        if self.scales != "loss" or (grid.uniform and grid.rule in ("span", "extreme") and not grid.per_tensor):
            return None
        return (
            f"it searches scales of rows or groups of integers, which {spec.format.name} "
            f"{'per tensor ' if grid.per_tensor else ''}has not; use gptq_sink"
        )

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight` under the Hessian of its inputs; nearest where there are no inputs (an embedding)."""
        if statistics is None:
            return grid.quantize(weight)
        H = self._hessian(statistics)
        return gptq(weight, H, grid, damp=self.damp, act_order=self.act_order, scales=self.scales)

    def searched(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics) -> AffineParams | None:
        """The scales that `round` would find, for others to start from; None for those that cover ranges."""
        H = self._hessian(statistics)
        return searched_scales(weight, H, grid, self.scales, damp=self.damp, act_order=self.act_order)

    def _hessian(self, statistics: InputStatistics) -> Float[Tensor, "in in"]:
        H = statistics.weighted(self.weighting)
        if self.sink_share and statistics.first is not None:
            H = with_first_tokens(H, statistics.first, self.sink_share, self.weighting)
        return H


METHOD = Recipe(
    title="GPTQ",
    summary="Rounds column by column, spreading each error over the columns that follow, under the input Hessian.",
    reference="Frantar et al., ICLR 2023, arXiv 2210.17323",
    rounding=Gptq(),
)
