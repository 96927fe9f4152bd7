"""SmoothQuant+: smooths the whole model with one strength, searched for the least loss after rounding weights.

Pan, Wang, Zheng, Li, Wang, Feng, "SmoothQuant+: Accurate and Efficient 4-bit Post-Training Weight Quantization for
LLM", 2023, arXiv 2312.03788. Inputs are divided by `s_j = max|X_j|^α / max|W_j|^(1−α)` as in SmoothQuant, but for
weight-only rounding: weights of large inputs are rounded more finely. `α` is searched on a grid of step 0.05 for the
least loss of the whole model, because the errors of all linears interact.

Deviations:
    * The loss of an `α` is the divergence `KL(exact ‖ rounded)` of the model's predictions on a few calibration
      windows, with all its linears rounded to nearest.
    * If no `α` gives a lower loss than no smoothing, nothing is smoothed.

Cost: one forward pass over the calibration tokens; 22 roundings of the weights, each followed by a forward pass over
eight windows. Memory: a second copy of the linears' weights, and the predictions for those windows in float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.calib.statistics import Rescaled, Statistic, Statistics
from slmquant.core.smooth import smoothing_factors
from slmquant.methods.common.activation_clip import log_probabilities
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.grids import grid_of
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.rescale import scale_group_
from slmquant.model.structure import InputGroup, Relations
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme

ALPHAS: tuple[float, ...] = tuple(step / 20 for step in range(21))
"""Smoothing strengths to try."""

_WINDOWS = 8
"""Largest number of calibration windows used by the search."""


@dataclass(frozen=True)
class SearchedSmoothing:
    """Smooths every input that a norm feeds, with the strength that gives the least loss after rounding weights."""

    needs: frozenset[Statistic] = frozenset({"range"})
    recaptures: bool = False
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse schemes that leave weights alone, and models in which no norm can absorb the factors."""
        if scheme.weights is None:
            return f"SmoothQuant+ searches by the rounding errors of weights, which {scheme} leaves in 16 bits"
        if relations is None or any(group.norm for group in relations.groups):
            return None
        return "smoothing needs a norm that feeds linears and nothing else; this model has none"

    @torch.no_grad()
    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Search the best strength, then smooth all groups with it."""
        unsmoothed, losses = self.losses(work, statistics, ALPHAS)
        if not float(losses.min()) < unsmoothed:
            work.notes.append("SmoothQuant+: no smoothing strength helped; nothing was smoothed")
            return statistics
        alpha = ALPHAS[int(losses.argmin())]
        work.notes.append(
            f"SmoothQuant+: strength {alpha:g}, divergence on calibration {float(losses.min()):.4g}, "
            f"{unsmoothed:.4g} without smoothing"
        )
        groups = _behind_norms(work)
        factors = {group.linears[0]: _factors(work, group, statistics, alpha) for group in groups}
        for group in groups:
            scale_group_(work.model, work.relations, group, factors[group.linears[0]])
        return Rescaled(statistics, factors)

    @torch.no_grad()
    def losses(
        self, work: Work, statistics: Statistics, alphas: Sequence[float]
    ) -> tuple[float, Float[Tensor, " alphas"]]:
        """Divergence without smoothing, and with each strength; the model is unchanged afterwards."""
        trial = _Trial(work)
        try:
            unsmoothed, divergences = trial.divergence({}), []
            for alpha in track(alphas, "SmoothQuant+: search the strength", work.progress):
                factors: dict[str, Tensor] = {}
                for group in _behind_norms(work):
                    factors |= dict.fromkeys(group.linears, _factors(work, group, statistics, alpha, trial.weights))
                divergences.append(trial.divergence(factors))
        finally:
            trial.restore_()
        return unsmoothed, torch.tensor(divergences, dtype=torch.float64)


def _behind_norms(work: Work) -> list[InputGroup]:
    return [group for group in work.relations.groups if group.norm is not None]


def _factors(
    work: Work, group: InputGroup, statistics: Statistics, alpha: float, weights: Mapping[str, Tensor] | None = None
) -> Float[Tensor, " in"]:
    """SmoothQuant's factors for a strength, from the given weights or, by default, the model's."""
    held = [weight_at(work.model, name) if weights is None else weights[name] for name in group.linears]
    largest = torch.stack([W.float().abs().amax(dim=0) for W in held]).amax(dim=0)
    return smoothing_factors(statistics[group.linears[0]].absmax, largest, alpha)


class _Trial:
    """Holds smoothed, rounded and unsmoothed weights in a model's linears, so that its inputs stay unsmoothed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.weights = {name: weight_at(work.model, name).clone() for name in work.relations.linears}
        self._windows = work.calibration.windows[:_WINDOWS]
        self._exact = [log_probabilities(work, window).half() for window in self._windows.split(1)]

    def divergence(self, factors: Mapping[str, Float[Tensor, " in"]]) -> float:
        """Mean divergence of the predictions with weights scaled by `factors`, rounded and scaled back."""
        for name, W in self.weights.items():
            by = factors.get(name)
            scaled = W.float() if by is None else W.float() * by
            rounded = grid_of(self._work.specs[name]).rounded(scaled)
            weight_at(self._work.model, name).copy_(rounded if by is None else rounded / by)
        total = 0.0
        for window, exact in zip(self._windows.split(1), self._exact, strict=True):
            log_p = log_probabilities(self._work, window)
            total += float(F.kl_div(log_p, exact.float(), log_target=True, reduction="none").sum(dim=-1).mean())
        return total / len(self._exact)

    def restore_(self) -> None:
        """Put the weights back."""
        for name, W in self.weights.items():
            weight_at(self._work.model, name).copy_(W)


METHOD = Recipe(
    title="SmoothQuant+",
    summary="Smooths inputs with one strength, searched for the least loss of the model, then rounds to nearest.",
    reference="Pan et al., 2023, arXiv 2312.03788",
    transforms=(SearchedSmoothing(),),
    rounding=Nearest(),
)
