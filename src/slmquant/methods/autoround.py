"""AutoRound: learns whether each weight is rounded up or down, and how far each range is clipped, by signed gradients.

Cheng, Zhang, Shen, Cai, He, Lv, Liu, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
LLMs", Findings of EMNLP 2024, arXiv 2309.05516. For each block in turn, with offsets `v` in [−½, ½] for every weight
and factors `α, β` in [0, 1] for every range (equations in `core.signround`), signed gradient descent on

    ‖ block(x; ŵ(v, α, β)) − block(x⁰; w) ‖²

where `x` comes from the quantized blocks before and `x⁰` from the full-precision model, which is the default of the
authors' library. The step is `lr / iterations` and falls linearly to 0: offsets can just reach ½.

Deviations:
    * A symmetric scale is `max(α |min w|, β |max w|)` over half the steps of the grid, as everywhere here; the library
      gives it the sign that puts the larger end on the lowest code, as GGUF's `Q4_0` and `Q5_0` do here.
    * What is kept is the best of a few states on windows that were set aside. The authors keep the state with the
      smallest loss on whatever batch it met.
    * Embeddings and head are rounded to nearest, as in the library's default; norms and biases are not tuned.
    * Products are taken in what the linears of the result multiply in; offsets and gradients of them are float32.

Budgets: `fast` is 48 steps of 4 windows, `paper` 200 steps of 8, as published (with windows of 2048 tokens).

Cost: two forward passes over the calibration tokens; for each step a forward and a backward pass of the block, and
some twenty passes over its weights. Three tensors of hidden states for all tokens, and about 30 bytes for each weight
of a block.
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
    """What a budget buys.

    Attributes:
        schedule: Steps and windows.
        lr: The first step, times the number of steps: with 1 an offset can just reach ½.
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
    """Signed gradient descent on how the weights of a block are rounded.

    Attributes:
        budgets: What each budget buys.
        search: What searches the scales that learning starts from; None starts from whole ranges, as published.
        embeddings: How embeddings and head are rounded.
    """

    budgets: Mapping[Budget, SignedGradient] = field(default_factory=lambda: BUDGETS)
    search: Gptq | None = None
    embeddings: Rounding = field(default_factory=Nearest)
    learns: bool = True
    wants_exact: Exact = "outputs"

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Integers only, for whose scales there is a search where one is wanted; any model that can be walked."""
        del relations
        if (reason := refusal_to_learn(scheme)) is not None or self.search is None:
            return reason
        reasons = (self.search.refusal(spec) for spec in scheme.weight_specs)
        return next((reason for reason in reasons if reason is not None), None)

    def solve_(self, block: CurrentBlock, work: Work) -> Mapping[str, QuantizedTensor]:
        """Codes of the block's linears; the block is left as it was."""
        settings = self.budgets[work.budget]
        weights = self._roundings(block, work)
        learner = _SignedDescent(weights, settings, work.dtype)
        with learning(block, work) as stage:
            return learn(stage, learner, settings.schedule, work)

    @torch.no_grad()
    def _roundings(self, block: CurrentBlock, work: Work) -> Mapping[str, LearnedRounding]:
        """All linears at their start."""
        inputs = {} if self.search is None else capture_block(block, block.groups, self.search.needs, work.dtype)
        found = {}
        for group in block.groups:
            for name in group.linears:
                weight, grid = block.weight(name).float(), grid_of(work.specs[name])
                start = None if self.search is None else self.search.searched(weight, grid, inputs[group.linears[0]])
                found[name] = LearnedRounding(weight, grid, start)
        return found


class _SignedDescent:
    """The offsets and ranges of all linears of a block."""

    def __init__(self, roundings: Mapping[str, LearnedRounding], settings: SignedGradient, dtype: torch.dtype) -> None:
        self._roundings, self._settings, self._dtype = roundings, settings, dtype

    def weights(self) -> Mapping[str, Float[Tensor, "out in"]]:
        return {name: rounding.dense(self._dtype) for name, rounding in self._roundings.items()}

    def begin_(self) -> None:
        """Learning begins at the start."""

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
