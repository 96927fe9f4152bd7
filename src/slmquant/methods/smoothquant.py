"""SmoothQuant: moves the outliers of activations into the weights, channel by channel, then rounds to nearest.

Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", ICML 2023, arXiv 2211.10438. Inputs of linears are divided by `s_j = max|X_j|^α / max|W_j|^(1−α)`
(eq. 4), weights multiplied, and the division is absorbed by the norm before them, so nothing is added at run time.

Deviations:
    * Which norm feeds which linears is discovered from the running model. Groups that no norm feeds exclusively (the
      inputs of `o_proj` and `down_proj`) are not smoothed, as in the authors' code.
    * `α` is 0.5 for every model, the paper's default; the authors tune it for some.
    * Attention's own products (`q kᵀ`, `p v`) stay in 16 bits: a scheme rounds only the inputs of linears.

Cost: one forward pass over the calibration tokens, and a vector for each distinct input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from slmquant.calib.statistics import InputStatistics, Rescaled, Statistic, Statistics
from slmquant.core.smooth import smoothing_factors
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.rtn import Nearest
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.rescale import scale_group_, scale_link_, shared_factors
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme


@dataclass(frozen=True)
class Smoothing:
    """Divides inputs of linears by their smoothing factors and multiplies the weights.

    Attributes:
        alpha: Migration strength in [0, 1].
        measure: Measure of a channel's range: the largest magnitude, as in the paper, or the root mean square.
        through_linears: Whether inputs that follow another linear (o after v, down after up) are smoothed as well;
            that linear's output channels absorb the division.
    """

    alpha: float = 0.5
    measure: Literal["absmax", "rms"] = "absmax"
    through_linears: bool = False
    needs: frozenset[Statistic] = frozenset({"range"})
    recaptures: bool = False
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse models in which no norm, or no linear if `through_linears`, can absorb the factors."""
        del scheme
        if (
            relations is None
            or any(group.norm for group in relations.groups)
            or (self.through_linears and relations.links)
        ):
            return None
        return "smoothing needs a norm that feeds linears and nothing else; this model has none"

    @torch.no_grad()
    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Smooth every possible input; links first, because they change weights that determine factors of groups."""
        model, relations = work.model, work.relations
        factors: dict[str, torch.Tensor] = {}
        for link in relations.links if self.through_linears else ():
            factors[link.target] = shared_factors(link, self._factors(model, (link.target,), statistics[link.target]))
            scale_link_(model, link, factors[link.target])
        for group in relations.groups:
            if group.norm is None:
                continue
            first = group.linears[0]
            factors[first] = self._factors(model, group.linears, statistics[first])
            scale_group_(model, relations, group, factors[first])
        return Rescaled(statistics, factors)

    def _factors(self, model: PreTrainedModel, linears: tuple[str, ...], inputs: InputStatistics) -> torch.Tensor:
        activations = inputs.absmax if self.measure == "absmax" else inputs.rms
        weights = torch.stack([weight_at(model, name).abs().amax(dim=0) for name in linears]).amax(dim=0)
        return smoothing_factors(activations, weights.float(), self.alpha)


METHOD = Recipe(
    title="SmoothQuant",
    summary="Moves activation outliers into the weights, absorbed by the norm before, then rounds to nearest.",
    reference="Xiao et al., ICML 2023, arXiv 2211.10438",
    transforms=(Smoothing(),),
    rounding=Nearest(),
)
