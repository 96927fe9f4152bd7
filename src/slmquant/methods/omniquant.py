"""OmniQuant: learns the clipping of weights, and scales and shifts that move range from activations to weights.

Shao, Chen, Zhang, Xu, Zhao, Li, Zhang, Gao, Qiao, Luo, "OmniQuant: Omnidirectionally Calibrated Quantization for Large
Language Models", ICLR 2024, arXiv 2308.13137. For each block in turn, AdamW minimises the mean squared difference
between the outputs of the quantized block and the full-precision block, over

* learnable weight clipping (eq. 2): the grid of a group covers `[σ(a) min w, σ(b) max w]`;
* learnable equivalent transformation (eq. 3): inputs become `(x − δ) / s` and weights `s · w`, with `w δ` added to
  the bias. Norms and the linears before absorb `s` and `δ`, so nothing is added at run time.

As in the authors' scripts for LLaMA, only the clipping is learned if a scheme leaves activations alone, and both if it
rounds activations. The target is the full-precision block's output for its own inputs. If only weights are rounded, to
two bits or fewer, it is the mean of that and of the full-precision block's output for the quantized blocks' outputs
(their `--aug_loss`). Logits start at 4, scales as in SmoothQuant with `α = ½`, shifts at the middle of each channel's
range.

Deviations:
    * Which norm feeds which linears, and which linears follow which, is discovered, not listed for LLaMA, OPT and
      Falcon. Scales through links reach `down_proj` if a gated unit makes that exact; the authors leave it out. Shifts
      are learned only if a norm and all its linears have biases, and never through links. With one scale for a whole
      tensor, links are not used. The authors' scripts for OPT learn scales without rounded activations too.
    * The same settings apply to all models. The scripts for W4A4 use `--aug_loss` for LLaMA and not for Llama-2; ours
      follow Llama-2.
    * Weights and activations are symmetric unless the scheme says otherwise; theirs are asymmetric.
    * There is no scale between queries and keys: scaling a row of a weight does not change its codes, and attention's
      products stay in 16 bits, so nothing would be learned.
    * Scales are learned as logarithms, which keeps them positive; the authors clamp small ones.
    * The result is the best of a few states, compared on held-out windows; plain nearest rounding is one of them.
    * Embeddings and head are rounded to nearest; activations symmetrically, as the scheme says.

Budgets: `paper` is 20 epochs of 128 windows one by one (40 epochs for weights of two bits) with the published learning
rates; for activations of four bits, `α = ¾` and a rate of 1e-3 for scales, as for Llama-2. `fast` is 128 steps of 2
windows with ten times the step sizes, which fall to 0. By `benchmarks/omniquant_schedule.py stories260k --windows 32`
this is the best for its time at W3A16g32: with half the step sizes the divergence is 0.042 [0.024, 0.061] nats higher,
and 320 steps of 0.03 are not better in twice the time. At W4A4 no schedule is distinguishable from another.

Cost: two forward passes over the calibration tokens and one over a few windows; for each step a forward and a backward
pass of the block. Memory: three tensors of hidden states for all tokens, four with rounded activations.
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
"""Bits of weights up to which the authors' scripts learn longer; bits of activations up to which `alpha` is larger."""


@dataclass(frozen=True)
class OmniSettings:
    """Settings of OmniQuant for one budget.

    Attributes:
        schedule: Number of steps and windows.
        clip_lr: Step size of AdamW for the logits of clipping.
        scale_lr: Step size for the logarithms of scales, and for shifts.
        falls: Whether step sizes fall linearly to 0; the authors keep them constant.
        alpha: SmoothQuant's migration strength, used for the initial scales.
    """

    schedule: Schedule
    clip_lr: float = 1e-2
    scale_lr: float = 5e-3
    falls: bool = False
    alpha: float = 0.5


_PUBLISHED = OmniSettings(Schedule(iterations=20 * 128, batch=1, checks=20))


def published(scheme: Scheme) -> OmniSettings:
    """Settings of the authors' scripts for LLaMA with these bits."""
    if scheme.activations is not None:
        return replace(_PUBLISHED, scale_lr=1e-3, alpha=0.75) if scheme.activations.bits <= _FOUR else _PUBLISHED
    if _bits(scheme) > _TWO:
        return _PUBLISHED
    return replace(_PUBLISHED, schedule=replace(_PUBLISHED.schedule, iterations=40 * 128, checks=40))


def augmented(scheme: Scheme) -> bool:
    """Whether the target includes the full-precision block's output for quantized inputs (`--aug_loss`)."""
    return scheme.activations is None and _bits(scheme) <= _TWO


def _bits(scheme: Scheme) -> float:
    """Bits of the weights; the smallest number if they differ."""
    return min(grid_of(spec).elements.bits for spec in scheme.weight_specs)


FAST = OmniSettings(Schedule(iterations=128, batch=2), clip_lr=0.1, scale_lr=5e-2, falls=True)


def settings_of(budget: Budget, scheme: Scheme) -> OmniSettings:
    """Settings for a budget and a scheme."""
    return FAST if budget == "fast" else published(scheme)


@dataclass(frozen=True)
class OmniQuant:
    """Learns clipping and equivalent transformation with AdamW.

    Attributes:
        settings: Function from budget and scheme to settings.
        clip_start: Initial logit of clipping.
        embeddings: Rounding of embeddings and head.
    """

    settings: Callable[[Budget, Scheme], OmniSettings] = settings_of
    clip_start: float = 4.0
    embeddings: Nearest = field(default_factory=Nearest)
    learns: bool = True
    wants_exact: Exact = "outputs"

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse all but integers, static scales, and rounded activations if nothing can absorb a scale."""
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
        """Return the block's codes; its norms and linears absorb the learned scales and shifts."""
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
    """Clipping and scales of a block; initially neither is applied, and weights are rounded to nearest."""

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
        dense_weights: dict[str, Tensor] = {}
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
                dense_weights[name] = self._clips[name].dense(scaled, self._grids[name], self._dtype)
        return dense_weights

    @torch.no_grad()
    def begin_(self) -> None:
        """Go to the authors' start: slight clipping, and SmoothQuant's scales."""
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
        """Return to a state that `kept` returned."""
        for parameter, value in zip(self._parameters, kept, strict=True):
            parameter.copy_(value)

    def quantized(self, block: CurrentBlock) -> Mapping[str, QuantizedTensor]:
        """Codes of the linears; call after the block has absorbed the scales."""
        clips = self._clips.items()
        return {name: clip.quantized(block.weight(name).float(), self._grids[name]) for name, clip in clips}


@torch.no_grad()
def _augmented_outputs(block: CurrentBlock, dtype: torch.dtype) -> Float[Tensor, "samples seq hidden"]:
    """Mean of the full-precision block's outputs for exact inputs and for inputs from the quantized blocks before.

    The squared distances to both outputs add up to twice the squared distance to their mean, plus a constant.
    """
    if block.exact_outputs is None:
        raise ValueError(f"{block.name} has no outputs of the full-precision model, which are the target of learning")
    targets = torch.empty_like(block.exact_outputs)
    with multiplying_in(block.module, dtype):
        for part in block.batches():
            torch.lerp(block.exact_outputs[part], block.run(block.inputs[part]), 0.5, out=targets[part])
    return targets


METHOD = Recipe(
    title="OmniQuant",
    summary="Learns clipping, and scales and shifts from activations to weights, block by block, with AdamW.",
    reference="Shao et al., ICLR 2024, arXiv 2308.13137",
    blocks=OmniQuant(),
)
