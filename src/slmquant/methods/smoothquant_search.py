"""SmoothQuant with a separate strength for every input, searched on calibration tokens.

Ours, after SmoothQuant (Xiao et al., ICML 2023, arXiv 2211.10438), whose authors tune one strength `α` for each model,
and SmoothQuant+ (Pan et al., 2023, arXiv 2312.03788), which searches one `α` with only weights rounded. Here each input
gets the factors that give its linears the least output error, with both weights and activations rounded:

    min over s of  mean_t ‖Q_a(x_t / s) Q_w(s W)ᵀ − x_t Wᵀ‖² / ‖x_t Wᵀ‖²

`s` is 1 (no smoothing), or `r_j^α / max|W_j|^(1−α)` with `α` from `STRENGTHS` and `r` the largest magnitude of a
channel or its root mean square. The error of every token is relative to its own output, so that the attention sink,
whose output is thousands of times that of others in some linears, counts as one token.
The search covers inputs that follow a norm and inputs that follow another linear (o after v, down after up).

Deviations: none, as there is no paper. Tokens are drawn from the calibration windows; each input is searched
separately, with the others in full precision.

Cost: one forward pass for the statistics and one that keeps `TOKENS` tokens of each input; 19 roundings of every
weight, each with a product over these tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slmquant.calib.statistics import InputStatistics, Rescaled, Statistic, Statistics
from slmquant.core.smooth import smoothing_factors
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.rtn import Nearest
from slmquant.methods.smoothquant import Smoothing
from slmquant.model.computing.activations import ActivationQuantizer, static_scale
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.rescale import scale_group_, scale_link_, shared_factors
from slmquant.model.structure import Relations
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme

STRENGTHS: tuple[float, ...] = tuple(step / 10 for step in range(1, 10))
"""Values of `α` to try, with each of the two measures of a channel's range."""
TOKENS = 512
"""Number of tokens of each input on which candidates are compared."""

Factors = Float[Tensor, " in"]


@dataclass(frozen=True)
class StrengthSearch:
    """Smooths every input before which a norm or linear can absorb the factors with the least output error."""

    needs: frozenset[Statistic] = frozenset({"range"})
    recaptures: bool = False
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse what smoothing with a fixed strength through norms and linears refuses."""
        return Smoothing(through_linears=True).refusal(scheme, relations)

    @torch.no_grad()
    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Search and smooth input by input; links first, because they change weights that groups read."""
        model, relations = work.model, work.relations
        tokens = sampled_inputs(work)
        applied: dict[str, Factors] = {}
        for link in track(relations.links, "search smoothing through linears", work.progress):
            search = _Search(work, (link.target,), statistics[link.target], tokens[link.target])
            factors = search.best(partial(shared_factors, link))
            if factors is not None:
                scale_link_(model, link, factors)
                applied[link.target] = factors
        for group in track(relations.groups, "search smoothing through norms", work.progress):
            first = group.linears[0]
            if group.norm is None:
                continue
            factors = _Search(work, group.linears, statistics[first], tokens[first]).best()
            if factors is not None:
                scale_group_(model, relations, group, factors)
                applied[first] = factors
        return Rescaled(statistics, applied)


@torch.no_grad()
def sampled_inputs(work: Work) -> dict[str, Float[Tensor, "tokens in"]]:
    """Inputs of every group at `TOKENS` randomly drawn calibration tokens, by first linear of the group."""
    windows = work.calibration.windows
    drawn = torch.randperm(windows.numel(), generator=torch.Generator().manual_seed(work.seed))[:TOKENS]
    masks = torch.zeros(windows.numel(), dtype=torch.bool).index_fill_(0, drawn, True).view(windows.shape)
    kept: dict[str, list[Tensor]] = {group.linears[0]: [] for group in work.relations.groups}
    chosen = masks[0]

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_linear: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0].flatten(0, -2)
            # Routed experts receive only some tokens: all are kept, because they are few.
            kept[name].append(inputs[chosen] if len(inputs) == len(chosen) else inputs[:TOKENS].clone())

        return hook

    hooks = [work.model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in kept]
    try:
        with _computing(work):
            for window, chosen in zip(windows, masks, strict=True):
                if chosen.any():
                    work.model.get_decoder()(input_ids=window[None].to(work.model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts)[:TOKENS].float() for name, parts in kept.items() if parts}


def _computing(work: Work) -> AbstractContextManager[object]:
    """Within this context linears multiply in the dtype of the work; a float64 model (in tests) stays float64."""
    if work.model.dtype == torch.float64:
        return computing_in_float64()
    return multiplying_in(work.model.base_model, work.dtype)


class _Search:
    """Searches the factors of one input for the linears that read it.

    Args:
        work: The model and the scheme.
        linears: Names of the linears.
        inputs: Statistics of the input.
        tokens: The input at some tokens.
    """

    def __init__(
        self, work: Work, linears: tuple[str, ...], inputs: InputStatistics, tokens: Float[Tensor, "tokens in"]
    ) -> None:
        self._spec = work.scheme.activations
        self._inputs, self._tokens = inputs, tokens
        self._weights = [weight_at(work.model, name).float() for name in linears]
        self._grids = [grid_of(work.specs[name]) if name in work.specs else None for name in linears]
        self._outputs = [tokens @ W.T for W in self._weights]
        self._energy = sum(y.square().sum(dim=1) for y in self._outputs)

    def best(self, share: Callable[[Factors], Factors] = lambda factors: factors) -> Factors | None:
        """The factors with the smallest loss; None if none is better than no smoothing."""
        least, best_factors = self.loss(None), None
        for factors in map(share, self._candidates()):
            loss = self.loss(factors)
            if loss < least:
                least, best_factors = loss, factors
        return best_factors

    def _candidates(self) -> Iterator[Factors]:
        largest = torch.stack([W.abs().amax(dim=0) for W in self._weights]).amax(dim=0)
        for measure in (self._inputs.absmax.float(), self._inputs.rms.float()):
            for strength in STRENGTHS:
                yield smoothing_factors(measure, largest, strength)

    @torch.no_grad()
    def loss(self, factors: Factors | None) -> float:
        """Output error relative to the output's energy, averaged over tokens."""
        x = self._tokens if factors is None else self._tokens / factors
        x = self._rounded_tokens(x, factors)
        lost = torch.zeros(len(x), device=x.device)
        for W, grid, y in zip(self._weights, self._grids, self._outputs, strict=True):
            scaled = W if factors is None else W * factors
            lost += (x @ (scaled if grid is None else grid.rounded(scaled)).T - y).square_().sum(dim=1)
        return float((lost / self._energy).nanmean())

    def _rounded_tokens(self, x: Float[Tensor, "tokens in"], factors: Factors | None) -> Float[Tensor, "tokens in"]:
        if self._spec is None:
            return x
        scale = None
        if self._spec.static:
            absmax = self._inputs.absmax if factors is None else self._inputs.absmax / factors
            scale = static_scale(self._spec, float(absmax.max()))
        codes = ActivationQuantizer(self._spec, torch.float32, scale).forward(x)
        return codes.codes * codes.scale


METHOD = Recipe(
    title="SmoothQuant, searched",
    summary="Smooths each input with a strength searched for the least output error, then rounds to nearest.",
    reference="ours; cf. Xiao et al., ICML 2023, arXiv 2211.10438",
    transforms=(StrengthSearch(),),
    rounding=Nearest(),
)
