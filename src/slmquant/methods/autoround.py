"""AutoRound: learns the rounding of each weight and the clipping of each range by signed gradient descent.

Cheng, Zhang, Shen, Cai, He, Lv, Liu, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
LLMs", Findings of EMNLP 2024, arXiv 2309.05516. For each block in turn, with offsets `v` in [−½, ½] for every weight
and factors `α, β` in [0, 1] for every range (equations in `core.signround`), signed gradient descent on

    ‖ block(x; ŵ(v, α, β)) − block(x⁰; w) ‖²

where `x` is the output of the quantized blocks before it and `x⁰` that of the full-precision model, the default of the
authors' library. The step size is `lr / iterations` and falls linearly to 0, so an offset can just reach ½.

Deviations:
    * A symmetric scale is `max(α |min w|, β |max w|)` divided by half the number of steps of the grid, as in every
      method here. The library gives it the sign that puts the larger end on the lowest code, as GGUF's `Q4_0` and
      `Q5_0` do here.
    * The result is the best of a few states, compared on held-out windows. The authors keep the state with the smallest
      loss on its training batch.
    * Embeddings and head are rounded to nearest, as by default in the library; norms and biases are not tuned.
    * Matrix products are computed in the dtype of the quantized model's linears; offsets and their gradients are
      float32.

Budgets: `fast` is 48 steps of 4 windows, `paper` 200 steps of 8, as published (with windows of 2048 tokens).

Cost: two forward passes over the calibration tokens; in each step a forward and a backward pass of the block, and
about twenty passes over its weights. Memory: three tensors of hidden states for all tokens, and about 30 bytes for each
weight of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.calib.capture import capture_block
from slmquant.core.affine import QuantizedTensor
from slmquant.core.signround import LearnedRounding
from slmquant.methods.common.learning import Schedule, learn, learning, refusal_to_learn
from slmquant.methods.common.parts import Rounding
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.gptq import Gptq
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.grids import grid_of
from slmquant.model.running.block_walk import CurrentBlock, Exact
from slmquant.model.structure import Relations
from slmquant.schemes.scheme import Scheme
from slmquant.store.record import Budget


@dataclass(frozen=True)
class SignedGradient:
    """Settings of AutoRound for one budget.

    Attributes:
        schedule: Number of steps and windows.
        lr: First step size times the number of steps; with 1 an offset can just reach ½.
    """

    schedule: Schedule
    lr: float = 1.0


BUDGETS: Mapping[Budget, SignedGradient] = MappingProxyType(
    {
        "fast": SignedGradient(Schedule(iterations=48, batch=4)),
        "paper": SignedGradient(Schedule(iterations=200, batch=8, checks=10)),
    }
)


@dataclass(frozen=True)
class AutoRound:
    """Learns the rounding of a block's weights by signed gradient descent.

    Attributes:
        budgets: Settings by budget.
        search: GPTQ settings whose scale search gives the starting scales; None starts from full ranges, as published.
        embeddings: Rounding of embeddings and head.
    """

    budgets: Mapping[Budget, SignedGradient] = field(default_factory=lambda: BUDGETS)
    search: Gptq | None = None
    embeddings: Rounding = field(default_factory=Nearest)
    learns: bool = True
    wants_exact: Exact = "outputs"

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse all but integers, and integers without a scale search if `search` is set; any model will do."""
        del relations
        if (reason := refusal_to_learn(scheme)) is not None or self.search is None:
            return reason
        reasons = (self.search.refusal(spec) for spec in scheme.weight_specs)
        return next((reason for reason in reasons if reason is not None), None)

    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Return the codes of the block's linears; the block itself is unchanged."""
        settings = self.budgets[work.budget]
        weights = self._roundings(block, work)
        learner = _SignedDescent(weights, settings, work.dtype)
        with learning(block, work) as stage:
            return learn(stage, learner, settings.schedule, work)

    @torch.no_grad()
    def _roundings(self, block: CurrentBlock, work: Work) -> Mapping[str, LearnedRounding]:
        """Learned roundings of all linears, in their initial state."""
        inputs = {} if self.search is None else capture_block(block, block.groups, self.search.needs, work.dtype)
        roundings = {}
        for group in block.groups:
            for name in group.linears:
                weight, grid = block.weight(name).float(), grid_of(work.specs[name])
                start = None if self.search is None else self.search.searched(weight, grid, inputs[group.linears[0]])
                roundings[name] = LearnedRounding(weight, grid, start)
        return roundings


class _SignedDescent:
    """Offsets and ranges of all linears of a block, updated by signed gradients."""

    def __init__(self, roundings: Mapping[str, LearnedRounding], settings: SignedGradient, dtype: torch.dtype) -> None:
        self._roundings, self._settings, self._dtype = roundings, settings, dtype

    def weights(self) -> Mapping[str, Float[Tensor, "out in"]]:
        return {name: rounding.dense(self._dtype) for name, rounding in self._roundings.items()}

    def begin_(self) -> None:
        """Do nothing: learning begins at the initial state."""

    def step_(self, done: float) -> None:
        lr = self._settings.lr / self._settings.schedule.iterations * (1 - done)
        for rounding in self._roundings.values():
            rounding.step_(lr)

    def kept(self) -> Mapping[str, QuantizedTensor]:
        return {name: rounding.quantized() for name, rounding in self._roundings.items()}


METHOD = Recipe(
    title="AutoRound",
    summary="Learns the rounding of each weight and the range of each group, block by block, by signed gradients.",
    reference="Cheng et al., Findings of EMNLP 2024, arXiv 2309.05516",
    blocks=AutoRound(),
)
