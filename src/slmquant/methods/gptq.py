"""GPTQ: rounds column by column and compensates each error in the columns that follow.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv 2210.17323. Minimises `‖(W − Ŵ) X‖²` over the calibration inputs `X`, in the order
of the columns, with the closed-form update of Optimal Brain Surgeon (algorithm 1 of the paper).

Deviations:
    * One pass: all Hessians come from the full-precision model, so every cell of a run can share them. The authors
      quantize block after block, with each block's inputs from the quantized blocks before it.
    * Linears that read the same input share one Hessian, and their rows are solved together.
    * Columns are rounded in order of decreasing Hessian diagonal (`act_order`, which the authors' code offers and
      recommends; the paper itself keeps the natural order), with static groups as in compressed-tensors, not groups of
      the sorted order. On a small model the natural order damages the keys of the attention sink; see `gptq_sink`.
    * Types with codebooks are rounded a vector of columns at a time, with the same feedback (`core.vector_feedback`).
    * The head is rounded with the Hessian of its own inputs. An embedding that is not also the head reads no input and
      is rounded to nearest.

Cost: one forward pass over the calibration tokens; an `in × in` float32 Hessian for each distinct input, read from
disk one at a time; for each a Cholesky factorisation in float64 and `O(out · in²)` work.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import HESSIANS, InputStatistics, Statistic
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.gptq import Factors, Scales, factors, gptq, searched_scales
from slmquant.core.hessian import Weighting, with_first_tokens
from slmquant.core.scales import AffineParams
from slmquant.methods.common.parts import RoundRows
from slmquant.methods.common.recipe import Recipe
from slmquant.model.computing.grids import grid_of
from slmquant.schemes.scheme import WeightSpec


@dataclass(frozen=True)
class Gptq:
    """Rounds column by column with error feedback.

    Attributes:
        damp: Fraction of the Hessian's mean diagonal that is added to its diagonal.
        act_order: Whether columns are rounded in order of decreasing Hessian diagonal.
        weighting: Weight of a token in the Hessian; `uniform` in the paper.
        sink_share: Share of the Hessian reserved for the first token of each window; see `gptq_sink`.
        scales: Whether scales cover ranges or are searched; see `core.gptq.Scales`.
        lookups: How much the rows of a tied embedding count that are looked up, relative to the head's inputs: this
            share of the Hessian's mean diagonal is added to its diagonal.
    """

    damp: float = 0.01
    act_order: bool = True
    weighting: Weighting = "uniform"
    sink_share: float = 0.0
    scales: Scales = "range"
    lookups: float = 0.0

    @property
    def needs(self) -> frozenset[Statistic]:
        """The Hessian with this weighting of tokens."""
        return frozenset({HESSIANS[self.weighting]})

    def refusal(self, spec: WeightSpec) -> str | None:
        """Refuse to search scales that are not free for each row or group; otherwise every grid is supported."""
        grid = grid_of(spec)
        if self.scales != "loss" or (grid.rule in ("span", "extreme") and not grid.spans_rows):
            return None
        return (
            f"it searches scales that are free for each row or group, and {spec.format.name} "
            f"{'per tensor ' if grid.per_tensor else ''}has none; use gptq_sink"
        )

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight` given the Hessian of its inputs; rounded to nearest without inputs (an embedding)."""
        return self.prepared(statistics)(weight, grid)

    def prepared(self, statistics: InputStatistics | None) -> RoundRows:
        """`round` for any number of weights and grids; the Hessian is factorised once, for the first."""
        return _Prepared(self, statistics)

    def searched(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics) -> AffineParams | None:
        """The scales that `round` would find, as a start for other methods; None if scales cover ranges."""
        H = self._hessian(statistics)
        return searched_scales(weight, H, grid, self.scales, damp=self.damp, act_order=self.act_order)

    def factors(self, statistics: InputStatistics, block: int) -> Factors:
        """What `core.gptq` needs of the Hessian, for grids with vectors of `block` numbers."""
        return factors(self._hessian(statistics), damp=self.damp, act_order=self.act_order, block=block)

    def _hessian(self, statistics: InputStatistics) -> Float[Tensor, "in in"]:
        H = statistics.weighted(self.weighting)
        if self.sink_share and statistics.first is not None:
            H = with_first_tokens(H, statistics.first, self.sink_share, self.weighting)
        if self.lookups and statistics.looked_up:
            H = H + self.lookups * H.diagonal().mean() * torch.eye(len(H), device=H.device)
        return H


@dataclass(frozen=True)
class _Prepared:
    """Rounds weights that read the same input."""

    rounding: Gptq
    statistics: InputStatistics | None
    known: dict[int, Factors] = field(default_factory=dict)
    """Size of a grid's vectors → factors."""

    def __call__(self, weight: Float[Tensor, "out in"], grid: Grid) -> QuantizedTensor:
        if self.statistics is None:
            return grid.quantize(weight)
        block = grid.elements.block
        if block not in self.known:
            self.known[block] = self.rounding.factors(self.statistics, block)
        return gptq(weight, self.known[block], grid, act_order=self.rounding.act_order, scales=self.rounding.scales)


METHOD = Recipe(
    title="GPTQ",
    summary="Rounds column by column and compensates each error in the columns that follow, by the input Hessian.",
    reference="Frantar et al., ICLR 2023, arXiv 2210.17323",
    rounding=Gptq(),
)
