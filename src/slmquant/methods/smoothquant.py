"""SmoothQuant: moves the outliers of activations into the weights, channel by channel, then rounds to nearest.

Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", ICML 2023, arXiv 2211.10438. Inputs of linears are divided by `s_j = max|X_j|^α / max|W_j|^(1−α)`
(eq. 4), weights multiplied, and the division is absorbed by the norm before them, so nothing is added at run time.

Deviations:
    * Which norm feeds which linears is discovered from the running model. Where no norm feeds a group exclusively
      (the inputs of `o_proj` and `down_proj`) nothing is smoothed, as in the authors' code.
    * `α` is 0.5 for every model, the paper's default; the authors tune it for some.
    * Attention's own products (`q kᵀ`, `p v`) stay in 16 bits: a scheme says what the inputs of linears are.

Cost: one forward pass over the calibration tokens, a vector for each distinct input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from slmquant.calib.statistics import Rescaled, Statistic, Statistics
from slmquant.core.smooth import smoothing_factors
from slmquant.methods._base import Recipe
from slmquant.methods.rtn import Nearest
from slmquant.model.quantized import weight_at
from slmquant.model.relations import InputGroup, Relations
from slmquant.model.rescale import scale_group_


@dataclass(frozen=True)
class Smoothing:
    """Divides the input of every group of linears behind a norm by its smoothing factors.

    Attributes:
        alpha: Migration strength in [0, 1].
    """

    alpha: float = 0.5
    needs: frozenset[Statistic] = frozenset({"absmax"})

    def refusal(self, relations: Relations) -> str | None:
        """A model none of whose linears lie behind a norm of their own offers nothing to smooth."""
        if any(group.norm for group in relations.groups):
            return None
        return "smoothing needs a norm that feeds linears and nothing else; this model has none"

    @torch.no_grad()
    def apply_(self, model: PreTrainedModel, relations: Relations, statistics: Statistics) -> Statistics:
        """Smooth every group that a norm feeds exclusively."""
        factors: dict[str, torch.Tensor] = {}
        for group in relations.groups:
            if group.norm is None:
                continue
            first = group.linears[0]
            factors[first] = smoothing_factors(statistics[first].absmax, _column_absmax(model, group), self.alpha)
            scale_group_(model, relations, group, factors[first])
        return Rescaled(statistics, factors)


def _column_absmax(model: PreTrainedModel, group: InputGroup) -> torch.Tensor:
    weights = (weight_at(model, name) for name in group.linears)
    return torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0).float()


METHOD = Recipe(
    title="SmoothQuant",
    summary="Moves activation outliers into the weights through the norm before them, then rounds to nearest.",
    reference="Xiao et al., ICML 2023, arXiv 2211.10438",
    transforms=(Smoothing(),),
    rounding=Nearest(),
)
