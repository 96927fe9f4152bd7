"""OmniQuant: learns how far weights are clipped, and which scales and shifts move range from activations to weights.

Shao, Chen, Zhang, Xu, Zhao, Li, Zhang, Gao, Qiao, Luo, "OmniQuant: Omnidirectionally Calibrated Quantization for Large
Language Models", ICLR 2024, arXiv 2308.13137. For each block in turn, AdamW on the mean squared difference between
what the quantized block and the full-precision one give, over

* learnable weight clipping (eq. 2): the grid of a group covers `[σ(a) min w, σ(b) max w]`;
* learnable equivalent transformation (eq. 3): inputs become `(x − δ) / s` and weights `s · w`, with `w δ` added to
  the bias. Norms and the linears before absorb `s` and `δ`, so nothing is left at run time.

As in the authors' scripts for LLaMA, schemes that leave activations alone learn the clipping only; where activations
are rounded both are learned. The target is what the full-precision block makes of its own inputs; where weights alone
are rounded, to two bits or fewer, the mean of that and of what it makes of the quantized blocks' outputs (their
`--aug_loss`). Logits start at 4, scales as SmoothQuant has them with `α = ½`, shifts at the middle of each channel's
range.

Deviations:
    * Which norm feeds which linears, and which linears follow which, is discovered, not listed for LLaMA, OPT and
      Falcon. Scales through links reach `down_proj` where a gated unit makes that exact; the authors leave it out.
      Shifts are learned only where a norm and all its linears have biases, none through links. With one scale for a
      whole tensor nothing goes through links. The authors' scripts for OPT learn scales without rounded activations
      too.
    * One setting serves all models. The scripts for W4A4 have `--aug_loss` for LLaMA and not for Llama-2; ours has
      none, as for Llama-2.
    * Weights and activations are symmetric unless the scheme says otherwise; theirs are asymmetric.
    * No scale between queries and keys: a row of a weight may be scaled without changing its codes, and products of
      attention stay in 16 bits, so it would learn nothing.
    * Scales are learned as their logarithms, which keeps them positive; the authors cut small ones off.
    * What is kept is the best of a few states on windows that were set aside, plain nearest rounding among them.
    * Embeddings and head are rounded to nearest; activations symmetrically, as the scheme says.

Budgets: `paper` is 20 epochs of 128 windows one by one, 40 where weights have two bits, with the published learning
rates, and for activations of four bits `α = ¾` and a rate of 1e-3 for scales, as for Llama-2. `fast` is 128 steps of 2
windows with ten times the step sizes, which fall to 0: by `benchmarks/omniquant_schedule.py stories260k --windows 32`
the best per time at W3A16g32, where half the step sizes diverge 0.042 [0.024, 0.061] nats more and 320 steps of 0.03
are not better in twice the time; at W4A4 no schedule is told apart from another.

Cost: two forward passes over the calibration tokens and one over a few windows; for each step a forward and a backward
pass of the block. Three tensors of hidden states for all tokens, four with rounded activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.learned_clip import ClipLogits
from slmquant.methods.common.equivalent import EquivalentScale, equivalent_scales
from slmquant.methods.common.learning import LearningBlock, Schedule, learn, learning, refusal_to_learn
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme
from slmquant.store.record import Budget

_TWO, _FOUR = 2, 4
"""Bits: up to which the authors' scripts learn longer, and up to which they move more from activations."""


@dataclass(frozen=True)
class OmniSettings:
    """What a budget buys.

    Attributes:
        schedule: Steps and windows.
        clip_lr: Step size of AdamW for logits of clipping.
        scale_lr: The same for logarithms of scales, and for shifts.
        falls: Whether step sizes fall linearly to 0; the authors keep them.
        alpha: SmoothQuant's migration strength, which scales start from.
    """

    schedule: Schedule
    clip_lr: float = 1e-2
    scale_lr: float = 5e-3
    falls: bool = False
    alpha: float = 0.5


_PUBLISHED = OmniSettings(Schedule(iterations=20 * 128, batch=1, checks=20))


def published(scheme: Scheme) -> OmniSettings:
    """What the authors' scripts for LLaMA set for such numbers."""
    if scheme.activations is not None:
        return replace(_PUBLISHED, scale_lr=1e-3, alpha=0.75) if scheme.activations.bits <= _FOUR else _PUBLISHED
    if _bits(scheme) > _TWO:
        return _PUBLISHED
    return replace(_PUBLISHED, schedule=replace(_PUBLISHED.schedule, iterations=40 * 128, checks=40))


def augmented(scheme: Scheme) -> bool:
    """Whether the target counts what the full-precision block makes of the quantized blocks' outputs (`--aug_loss`)."""
    return scheme.activations is None and _bits(scheme) <= _TWO


def _bits(scheme: Scheme) -> float:
    """Of the weights; the fewest where they differ."""
    return min(grid_of(spec).elements.bits for spec in scheme.weight_specs)


FAST = OmniSettings(Schedule(iterations=128, batch=2), clip_lr=0.1, scale_lr=5e-2, falls=True)


def settings_of(budget: Budget, scheme: Scheme) -> OmniSettings:
    """What a budget buys for such numbers."""
    return FAST if budget == "fast" else published(scheme)


@dataclass(frozen=True)
class OmniQuant:
    """AdamW on clipping and equivalent transformation.

    Attributes:
        settings: What a budget buys for a scheme.
        clip_start: Logit that clipping starts from.
        embeddings: How embeddings and head are rounded.
    """

    settings: Callable[[Budget, Scheme], OmniSettings] = settings_of
    clip_start: float = 4.0
    embeddings: Nearest = field(default_factory=Nearest)
    learns: bool = True
    wants_exact: Exact = "outputs"

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Integers only, found while running; with rounded activations something must be there to absorb a scale."""
        if (reason := refusal_to_learn(scheme)) is not None:
            return reason
        if scheme.activations is None:
            return None
        if scheme.activations.static:
            return f"its transformation changes the ranges that {scheme} would have calibrated before; drop -static"
        if relations is not None and not relations.links and not any(group.norm for group in relations.groups):
            return (
                "its equivalent transformation needs a norm that feeds linears and nothing else, or a linear that "
                "follows another; this model has none, so use autoround"
            )
        return None

    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Codes of the block's linears; what absorbs scales and shifts is changed, and so are the plain linears."""
        settings = self.settings(work.budget, work.scheme)
        grids = {name: grid_of(work.specs[name]) for group in block.groups for name in group.linears}
        scales: list[EquivalentScale] = []
        if work.scheme.activations is not None:
            # A link scales rows of its source, which leaves their codes alone unless all rows share one scale.
            with_links = not any(grid.per_tensor for grid in grids.values())
            scales = equivalent_scales(block, work, settings.alpha, with_links)
        if augmented(work.scheme):
            block = replace(block, exact_outputs=_augmented_outputs(block, work.dtype))
        learner = _OmniLearner(block, scales, grids, settings, self.clip_start, work.dtype)
        with learning(block, work) as stage:
            learner.stage = stage
            learner.restore_(learn(stage, learner, settings.schedule, work))
        for scale in scales:
            scale.absorb_(work.model, work.relations)
        return learner.quantized(block)


class _OmniLearner:
    """Clipping and scales of a block. It starts without either: weights are rounded to nearest."""

    stage: LearningBlock

    def __init__(
        self,
        block: CurrentBlock,
        scales: list[EquivalentScale],
        grids: Mapping[str, Grid],
        settings: OmniSettings,
        clip_start: float,
        dtype: torch.dtype,
    ) -> None:
        self._grids, self._settings, self._clip_start, self._dtype = grids, settings, clip_start, dtype
        self._groups = block.groups
        self._scales = {scale.linears[0]: scale for scale in scales}
        names = [name for group in block.groups for name in group.linears]
        self._weights = {name: block.weight(name).detach().float() for name in names}
        self._biases = {name: block.linear(name).bias for name in names}
        self._clips = {name: ClipLogits.filled(self._weights[name], grids[name], torch.inf) for name in names}
        logits = [bound.requires_grad_() for clip in self._clips.values() for bound in clip]
        moved = [parameter for scale in scales for parameter in scale.parameters]
        self._parameters = [*logits, *moved]
        rates = {settings.clip_lr: logits, settings.scale_lr: moved}
        self._adam = torch.optim.AdamW(
            [{"params": part, "lr": lr} for lr, part in rates.items() if part], weight_decay=0.0
        )
        self._rates = [group["lr"] for group in self._adam.param_groups]

    def weights(self) -> Mapping[str, Float[Tensor, "out in"]]:
        found: dict[str, Tensor] = {}
        for group in self._groups:
            scale = self._scales.get(group.linears[0])
            factors = None if scale is None else scale.factors()
            inputs = self.stage.inputs[group.linears[0]]
            inputs.divisor, inputs.shift = factors, None if scale is None else scale.shift
            for name in group.linears:
                weight = self._weights[name]
                if scale is not None and scale.shift is not None:
                    self.stage.linears[name].bias = self._biases[name] + weight @ scale.shift
                scaled = weight if factors is None else weight * factors
                found[name] = self._clips[name].dense(scaled, self._grids[name], self._dtype)
        return found

    @torch.no_grad()
    def begin_(self) -> None:
        """Clip a little, as the authors do, and migrate as SmoothQuant does."""
        for clip in self._clips.values():
            for bound in clip:
                bound.fill_(self._clip_start)
        for scale in self._scales.values():
            scale.begin_()

    def step_(self, done: float) -> None:
        if self._settings.falls:
            for group, lr in zip(self._adam.param_groups, self._rates, strict=True):
                group["lr"] = lr * (1 - done)
        self._adam.step()
        self._adam.zero_grad()

    def kept(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def restore_(self, kept: list[Tensor]) -> None:
        """Come back to a state."""
        for parameter, value in zip(self._parameters, kept, strict=True):
            parameter.copy_(value)

    def quantized(self, block: CurrentBlock) -> Mapping[str, QuantizedTensor]:
        """The codes, once the block has absorbed the scales."""
        clips = self._clips.items()
        return {name: clip.quantized(block.weight(name).float(), self._grids[name]) for name, clip in clips}


@torch.no_grad()
def _augmented_outputs(block: CurrentBlock, dtype: torch.dtype) -> Float[Tensor, "samples seq hidden"]:
    """The mean of the full-precision block's outputs on exact inputs and on those of the quantized blocks before.

    Squared distances to both add up to twice the squared distance to their mean, and a constant.
    """
    if block.exact_outputs is None:
        raise ValueError(f"{block.name} came without the outputs of the full-precision model, which learning aims at")
    targets = torch.empty_like(block.exact_outputs)
    with multiplying_in(block.module, dtype):
        for part in block.batches():
            torch.lerp(block.exact_outputs[part], block.run(block.inputs[part]), 0.5, out=targets[part])
    return targets


METHOD = Recipe(
    title="OmniQuant",
    summary="Learns clipping, and scales and shifts from activations to weights, block by block, by AdamW.",
    reference="Shao et al., ICLR 2024, arXiv 2308.13137",
    blocks=OmniQuant(),
)
