"""SmoothQuant+: one smoothing strength for the whole model, the one that costs the rounded weights least.

Pan, Wang, Zheng, Li, Wang, Feng, "SmoothQuant+: Accurate and Efficient 4-bit Post-Training Weight Quantization for
LLM", 2023, arXiv 2312.03788. Inputs are divided by `s_j = max|X_j|^α / max|W_j|^(1−α)` as in SmoothQuant, for the sake
of weight-only rounding: loud inputs get weights that are rounded more finely. `α` comes from a grid of step 0.05.

Deviations:
    * The loss of an `α` is the sum, over the inputs that a norm feeds, of the share of output that rounding loses,
      `tr(ΔW H ΔWᵀ) / tr(W H Wᵀ)` with the Hessian `H = E[x xᵀ]`; no forward passes.
    * Where smoothing loses more than none at every `α`, nothing is smoothed.

Cost: one forward pass over the calibration tokens, a Hessian for each distinct input; 21 roundings of the weights that
norms feed, with as many products of `O(out · in²)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import Rescaled, Statistic, Statistics
from slmquant.core.awq import output_loss
from slmquant.core.smooth import smoothing_factors
from slmquant.methods._base import Recipe, Work, grid_of
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.linear import weight_at
from slmquant.model.discovery.relations import InputGroup, Relations
from slmquant.model.rewriting.rescale import scale_group_
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme

ALPHAS: tuple[float, ...] = tuple(step / 20 for step in range(21))
"""Smoothing strengths that are tried."""


@dataclass(frozen=True)
class SearchedSmoothing:
    """Smooths every input that a norm feeds, with the one strength that loses least when weights are rounded."""

    needs: frozenset[Statistic] = frozenset({"range", "hessian"})
    recaptures: bool = False
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Without weights to round there is no loss to search by; without norms there is nothing to smooth."""
        if scheme.weights is None:
            return f"SmoothQuant+ searches by the rounding errors of weights, which {scheme} leaves in 16 bits"
        if relations is None or any(group.norm for group in relations.groups):
            return None
        return "smoothing needs a norm that feeds linears and nothing else; this model has none"

    @torch.no_grad()
    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Search the strength over all groups, then smooth them with it."""
        unsmoothed, losses = self.losses(work, statistics, ALPHAS)
        if float(losses.min()) >= unsmoothed:
            work.notes.append("SmoothQuant+: no smoothing strength helped; nothing was smoothed")
            return statistics
        alpha, groups = ALPHAS[int(losses.argmin())], _behind_norms(work)
        found = {group.linears[0]: _Problem(work, group, statistics).factors(alpha) for group in groups}
        for group in groups:
            scale_group_(work.model, work.relations, group, found[group.linears[0]])
        return Rescaled(statistics, found)

    def losses(
        self, work: Work, statistics: Statistics, alphas: Sequence[float]
    ) -> tuple[float, Float[Tensor, " alphas"]]:
        """The loss without smoothing, and that of each strength."""
        losses, unsmoothed = torch.zeros(len(alphas), dtype=torch.float64), 0.0
        for group in track(_behind_norms(work), "SmoothQuant+: search the strength", work.progress):
            problem = _Problem(work, group, statistics)
            unsmoothed += problem.loss(None)
            losses += torch.tensor([problem.loss(problem.factors(alpha)) for alpha in alphas])
        return unsmoothed, losses


def _behind_norms(work: Work) -> list[InputGroup]:
    return [group for group in work.relations.groups if group.norm is not None]


class _Problem:
    """The linears of one group, and what they read."""

    def __init__(self, work: Work, group: InputGroup, statistics: Statistics) -> None:
        inputs = statistics[group.linears[0]]
        self._absmax, self._H = inputs.absmax, inputs.weighted("uniform")
        self._weights = [weight_at(work.model, name).float() for name in group.linears]
        self._grids = [grid_of(work.specs[name]) for name in group.linears]
        energy = sum(output_loss(W, self._H) for W in self._weights)
        self._energy = max(energy, torch.finfo(torch.float32).tiny)

    def factors(self, alpha: float) -> Float[Tensor, " in"]:
        """SmoothQuant's factors of that strength."""
        largest = torch.stack([W.abs().amax(dim=0) for W in self._weights]).amax(dim=0)
        return smoothing_factors(self._absmax, largest, alpha)

    def loss(self, factors: Float[Tensor, " in"] | None) -> float:
        """Share of the output that rounding loses after smoothing."""
        H = self._H if factors is None else self._H / factors[:, None] / factors
        lost = 0.0
        for W, grid in zip(self._weights, self._grids, strict=True):
            scaled = W if factors is None else W * factors
            lost += output_loss(grid.rounded(scaled).sub_(scaled), H)
        return lost / self._energy


METHOD = Recipe(
    title="SmoothQuant+",
    summary="Smooths inputs with the one strength that costs the rounded weights least, then rounds to nearest.",
    reference="Pan et al., 2023, arXiv 2312.03788",
    transforms=(SearchedSmoothing(),),
    rounding=Nearest(),
)
