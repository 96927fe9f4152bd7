"""AWQ: scales up the weights of loud inputs before rounding, and narrows the range of each group.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han, "AWQ: Activation-aware Weight Quantization for On-Device LLM
Compression and Acceleration", MLSys 2024, arXiv 2306.00978. Inputs are divided by `s = mean|x|^r` and weight columns
multiplied; `r` is the one of twenty that minimises `‖(Q(W diag(s)) diag(s)⁻¹ − W) X‖²` (eq. 4, 5). Then each group of
weights covers the share of its range, one of ten, that minimises the error which the group adds to the output.

Deviations:
    * Losses are `tr(ΔW H ΔWᵀ)` with the Hessian `H = E[x xᵀ]`: the same squared errors over all calibration tokens,
      without forward passes. The clip search is thereby exact, where the authors sample tokens. Tokens count alike, as
      in the paper, also where a rounding that follows weighs them otherwise (`awq+gptq_sink`).
    * The loss is that of the linears which read the input, their outputs side by side. The authors compare the
      outputs of the whole attention or feed-forward block for q, k, v and for gate, up.
    * Which passages a scale can take is discovered; with grouped-query attention v → o too, where the authors' first
      code has none. A link is only scaled if source and target together lose less.
    * The ranges of queries and keys are clipped as well, which the authors leave out.
    * Nothing is clipped where the parameters of a group depend on more than its range (one scale for a tensor, scales
      in two levels, ternary weights).
    * The rounding of activations is no part of the loss.

Cost: one forward pass over the calibration tokens, a Hessian for each distinct input; 20 and 10 roundings of every
weight, with as many products of `O(out · in²)` for the former.
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
    """Moves the power of each input's magnitude into the weights that loses least when they are rounded to nearest."""

    needs: frozenset[Statistic] = frozenset({"range", "hessian"})
    recaptures: bool = False
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Without weights to round there is no loss to search by; without passages there is nothing to scale."""
        if scheme.weights is None:
            return f"AWQ scales inputs by the rounding errors of weights, which {scheme} leaves in 16 bits"
        if relations is None or any(group.norm for group in relations.groups) or relations.links:
            return None
        return "AWQ needs a norm or a linear that can absorb a scale; this model has none"

    @torch.no_grad()
    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Scale through norms, then through links: rows that a link scales would weigh differently in their group."""
        relations = work.relations
        search = _Search(work, statistics)
        for group in track(relations.groups, "AWQ: search scales through norms", work.progress):
            if group.norm is not None:
                found = search.group(group.linears)
                scale_group_(work.model, relations, group, found.factors)
                search.factors[group.linears[0]] = found.factors
        for link in track(relations.links, "AWQ: search scales through linears", work.progress):
            factors = search.link(link)
            if factors is not None:
                scale_link_(work.model, link, factors)
                search.factors[link.target] = factors
        return Rescaled(statistics, search.factors)


class _Search:
    """What has been found so far.

    Attributes:
        factors: First linear of a group → what its input was divided by.
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
        """The best factors for the target's inputs; None where they help source and target together less than none."""
        W = self._weight(link.target)
        inputs, H = self._inputs(link.target)
        found = best_factors(W, H, inputs.absmean, partial(self._rounded, link.target), partial(shared_factors, link))
        source = self._weight(link.source)
        _, source_H = self._inputs(self._first[link.source])
        by_row = source.new_ones(len(source))
        by_row[list(link.source_rows)] = found.factors
        scaled = source / by_row[:, None]
        before = output_loss(self._rounded(link.source, source) - source, source_H)
        after = output_loss((self._rounded(link.source, scaled) - scaled) * by_row[:, None], source_H)
        gain = (found.unscaled_loss - found.loss) / _energy(W, H) + (before - after) / _energy(source, source_H)
        return found.factors if gain > 0 else None

    def _inputs(self, first: str) -> tuple[InputStatistics, Float[Tensor, "in in"]]:
        inputs = Rescaled(self._base, self.factors)[first]
        return inputs, inputs.weighted("uniform")

    def _weight(self, name: str) -> Float[Tensor, "out in"]:
        return weight_at(self._model, name).float()

    def _rounded(self, name: str, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        return grid_of(self._specs[name]).rounded(W)


def _energy(W: Float[Tensor, "out in"], H: Float[Tensor, "in in"]) -> float:
    """Mean square of the output, at least so much that a linear of zeros divides by something."""
    return max(output_loss(W, H), torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class ClippedNearest:
    """Rounds to nearest within the share of each group's range that errs least on the calibration inputs."""

    needs: frozenset[Statistic] = frozenset({"hessian"})

    def refusal(self, spec: WeightSpec) -> str | None:
        """None: any numbers will do."""
        del spec
        return None

    def round(self, weight: Float[Tensor, "out in"], grid: Grid, statistics: InputStatistics | None) -> QuantizedTensor:
        """Codes of `weight`; in the whole range where there are no inputs (an embedding) or groups are not alone."""
        if statistics is None or grid.spans_groups:
            return grid.quantize(weight)
        return grid.quantize(weight, clipped(weight, statistics.weighted("uniform"), grid))


METHOD = Recipe(
    title="AWQ",
    summary="Scales weight columns of loud inputs up before rounding, and clips each group where its output gains.",
    reference="Lin et al., MLSys 2024, arXiv 2306.00978",
    transforms=(ActivationAwareScaling(),),
    rounding=ClippedNearest(),
)
