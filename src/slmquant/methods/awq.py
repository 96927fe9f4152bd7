"""AWQ: scales up the weights of large inputs before rounding, and clips the range of each group.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han, "AWQ: Activation-aware Weight Quantization for On-Device LLM
Compression and Acceleration", MLSys 2024, arXiv 2306.00978. Inputs are divided by `s = mean|x|^r` and weight columns
multiplied by `s`; of twenty values, `r` is the one that minimises `‖(Q(W diag(s)) diag(s)⁻¹ − W) X‖²` (eq. 4, 5).
Then each group of weights is clipped to a share of its range: of ten shares, the one that minimises the group's error
in the output.

Deviations:
    * Losses are `tr(ΔW H ΔWᵀ)` with the Hessian `H = E[x xᵀ]`: the same squared errors over all calibration tokens,
      without forward passes. This makes the clip search exact, while the authors sample tokens. All tokens have equal
      weight, as in the paper, even if the following rounding weights them differently (`awq+gptq_sink`).
    * The loss is that of the linears that read the input, with their outputs concatenated. For q, k, v and for gate, up
      the authors compare the outputs of the whole attention or feed-forward block.
    * The layers between which a scale can move are discovered, v → o under grouped-query attention included, which the
      authors' first code leaves out. A link is scaled only if that lowers the loss of source and target together.
    * Queries and keys are clipped as well; the authors leave them out.
    * Nothing is clipped if the parameters of a group depend on more than its range (one scale for a tensor, scales in
      two levels, ternary weights).
    * The loss does not include the rounding of activations.

Cost: one forward pass over the calibration tokens, and a Hessian for each distinct input; 20 roundings of every weight
for the scales, each with a product of `O(out · in²)`, and 10 roundings for the clipping.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.calib.statistics import InputStatistics, Rescaled, Statistic, Statistics
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.awq import Found, best_factors, output_loss
from slmquant.core.clip import clipped
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.model.computing.grids import grid_of
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.rescale import scale_group_, scale_link_, shared_factors
from slmquant.model.structure import ChannelLink, Relations
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme, WeightSpec


@dataclass(frozen=True)
class ActivationAwareScaling:
    """Scales each input by the power of its magnitude that gives the least loss after rounding to nearest."""

    needs: frozenset[Statistic] = frozenset({"range", "hessian"})
    recaptures: bool = False
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse schemes that leave weights alone, and models in which no norm or linear can absorb a scale."""
        if scheme.weights is None:
            return f"AWQ scales inputs by the rounding errors of weights, which {scheme} leaves in 16 bits"
        if relations is None or any(group.norm for group in relations.groups) or relations.links:
            return None
        return "AWQ needs a norm or a linear that can absorb a scale; this model has none"

    @torch.no_grad()
    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Scale through norms first, then through links, because a link rescales rows of weights that share a group."""
        relations = work.relations
        search = _Search(work, statistics)
        for group in track(relations.groups, "AWQ: search scales through norms", work.progress):
            if group.norm is not None:
                best = search.group(group.linears)
                scale_group_(work.model, relations, group, best.factors)
                search.factors[group.linears[0]] = best.factors
        for link in track(relations.links, "AWQ: search scales through linears", work.progress):
            factors = search.link(link)
            if factors is not None:
                scale_link_(work.model, link, factors)
                search.factors[link.target] = factors
        return Rescaled(statistics, search.factors)


class _Search:
    """Searches scaling factors and remembers those already applied.

    Attributes:
        factors: First linear of a group → factors that its input was divided by.
    """

    def __init__(self, work: Work, statistics: Statistics) -> None:
        self.factors: dict[str, Float[Tensor, " in"]] = {}
        self._model, self._specs, self._base = work.model, work.specs, statistics
        self._first = {name: group.linears[0] for group in work.relations.groups for name in group.linears}

    def group(self, linears: tuple[str, ...]) -> Found:
        """The best factors for linears that read one input."""
        weights = [self._weight(name) for name in linears]
        inputs, H = self._inputs(linears[0])
        rows = [len(W) for W in weights]

        def rounded(W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
            return torch.cat([self._rounded(name, part) for name, part in zip(linears, W.split(rows), strict=True)])

        return best_factors(torch.cat(weights), H, inputs.absmean, rounded)

    def link(self, link: ChannelLink) -> Float[Tensor, " in"] | None:
        """The best factors for the target's inputs; None if they do not lower the joint loss of source and target."""
        W = self._weight(link.target)
        inputs, H = self._inputs(link.target)
        best = best_factors(W, H, inputs.absmean, partial(self._rounded, link.target), partial(shared_factors, link))
        source = self._weight(link.source)
        _, source_H = self._inputs(self._first[link.source])
        by_row = source.new_ones(len(source))
        by_row[list(link.source_rows)] = best.factors
        scaled = source / by_row[:, None]
        before = output_loss(self._rounded(link.source, source) - source, source_H)
        after = output_loss((self._rounded(link.source, scaled) - scaled) * by_row[:, None], source_H)
        gain = (best.unscaled_loss - best.loss) / _energy(W, H) + (before - after) / _energy(source, source_H)
        return best.factors if gain > 0 else None

    def _inputs(self, first: str) -> tuple[InputStatistics, Float[Tensor, "in in"]]:
        inputs = Rescaled(self._base, self.factors)[first]
        return inputs, inputs.weighted("uniform")

    def _weight(self, name: str) -> Float[Tensor, "out in"]:
        return weight_at(self._model, name).float()

    def _rounded(self, name: str, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        return grid_of(self._specs[name]).rounded(W)


def _energy(W: Float[Tensor, "out in"], H: Float[Tensor, "in in"]) -> float:
    """Mean square of the output, clamped above 0 so that a linear of zeros causes no division by zero."""
    return max(output_loss(W, H), torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class ClippedNearest:
    """Rounds to nearest, with each group clipped to the share of its range that gives the least output error."""

    needs: frozenset[Statistic] = frozenset({"hessian"})

    def refusal(self, spec: WeightSpec) -> str | None:
        """None: every number format is supported."""
        del spec
        return None

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; unclipped without input statistics (an embedding) or if groups share parameters."""
        if statistics is None or grid.spans_groups:
            return grid.quantize(weight)
        return grid.quantize(weight, clipped(weight, statistics.weighted("uniform"), grid))


METHOD = Recipe(
    title="AWQ",
    summary="Scales up the weights of large inputs before rounding, and clips each group to lower its output error.",
    reference="Lin et al., MLSys 2024, arXiv 2306.00978",
    transforms=(ActivationAwareScaling(),),
    rounding=ClippedNearest(),
)
