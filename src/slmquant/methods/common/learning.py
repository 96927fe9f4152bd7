"""Learns the rounding of a block: the training loop, its linears while they learn, and the choice of the best state.

The loss is the mean squared difference between the block's output, for inputs from the quantized blocks before it, and
the full-precision model's output. Some windows are held out for validation: the result is the best of a few states on
them, the initial state included, so learning never ends worse than it began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.core.straight_through import fake_quantize_tokens
from slmquant.core.tokens import TokenCodes
from slmquant.methods.common.work import Work
from slmquant.model.computing.activations import activation_elements, static_scale
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.linear import multiplying_in, transfer_hooks_
from slmquant.model.rewriting.online_rotations import activation_clip
from slmquant.model.running.block_walk import CurrentBlock
from slmquant.schemes.scheme import ActivationSpec, Scheme

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Number of steps and of validations.

    Attributes:
        iterations: Number of steps.
        batch: Windows per step.
        checks: Number of states validated after the initial one, evenly spaced; the last state is one of them.
        checked: Largest number of windows held out for validation; at most a quarter of all windows are.
    """

    iterations: int
    batch: int
    checks: int = 4
    checked: int = 8


class Learner(Protocol[T_co]):
    """The learned state of all linears of a block."""

    def weights(self) -> Mapping[str, Float[Tensor, "out in"]]:
        """The current weights by name of linear, differentiable."""
        ...

    def begin_(self) -> None:
        """Go from the initial state, nearest rounding, to the state from which learning starts, if it differs."""
        ...

    def step_(self, done: float) -> None:
        """Take one step along the gradients; `done` is the fraction of steps already taken."""
        ...

    def kept(self) -> T_co:
        """A copy of this state, or as much of it as the result needs."""
        ...


class LearnedInput:
    """The input of a group of linears while they learn: shifted, divided and rounded once for all of them.

    Args:
        spec: Number format of the inputs; None leaves them alone.
        dtype: Dtype in which linears multiply.
        static: The calibrated scale, if the spec is static.
        clip: Share of a token's range to which it is clipped at run time.

    Attributes:
        divisor: Factors that divide the inputs, `(in,)`; None for none.
        shift: Shift subtracted before dividing, `(in,)`; None for none.
    """

    def __init__(
        self, spec: ActivationSpec | None, dtype: torch.dtype, static: Tensor | None, clip: float = 1.0
    ) -> None:
        self.divisor: Tensor | None = None
        self.shift: Tensor | None = None
        self._elements = None if spec is None else activation_elements(spec)
        self._dtype, self._static, self._clip = dtype, static, clip
        self._last: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The numbers to multiply; if they are codes, also the scale of each token."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, *self._read(x))
        return self._last[1:]

    def forget(self) -> None:
        """Release the tensors of the last pass."""
        self._last = None

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        moved = x if self.shift is None else x - self.shift
        scaled = moved if self.divisor is None else moved / self.divisor
        if self._elements is None:
            return scaled.to(self._dtype), None
        codes: TokenCodes = fake_quantize_tokens(scaled, self._elements, self._static, self._clip)
        return codes.codes.to(self._dtype), codes.scale


class LearnedLinear(nn.Module):
    """A linear while it learns: its weight is set before every pass.

    Args:
        inputs: Its input, shared with the other linears of its group.
        bias: Its bias.
    """

    weight: Tensor

    def __init__(self, inputs: LearnedInput, bias: Tensor | None) -> None:
        super().__init__()
        self.inputs, self.bias = inputs, None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the dtype of `x`."""
        read, token_scale = self.inputs(x)
        out = F.linear(read, self.weight).to(x.dtype)
        if token_scale is not None:
            out = out * token_scale
        return out if self.bias is None else out + self.bias


class LearningBlock:
    """A block whose linears learn.

    Args:
        block: The block.
        inputs: The input of each group, by its first linear.
        linears: Its linears, by name.
        targets: Target outputs of the block for each of its inputs.
    """

    def __init__(
        self,
        block: CurrentBlock,
        inputs: Mapping[str, LearnedInput],
        linears: Mapping[str, LearnedLinear],
        targets: Float[Tensor, "samples seq hidden"],
    ) -> None:
        self.block, self.inputs, self.linears, self.targets = block, inputs, linears, targets

    def loss(self, weights: Mapping[str, Float[Tensor, "out in"]], samples: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Mean squared error of the block's output on some windows, with these weights."""
        for name, weight in weights.items():
            self.linears[name].weight = weight
        try:
            return F.mse_loss(self.block.run(self.block.inputs[samples]), self.targets[samples])
        finally:
            for inputs in self.inputs.values():
                inputs.forget()

    @torch.no_grad()
    def judge(self, learner: Learner[T], samples: Int[Tensor, " checked"]) -> float:
        """Loss of the learner's state on some windows, computed a few windows at a time."""
        weights = learner.weights()
        parts = samples.split(max(1, 2048 // self.block.inputs.shape[1]))
        return sum(float(self.loss(weights, part)) * len(part) for part in parts) / len(samples)


@contextmanager
def learning(block: CurrentBlock, work: Work) -> Iterator[LearningBlock]:
    """Within this context the block's linears are learning ones, and its own parameters are frozen."""
    if block.exact_outputs is None:
        raise ValueError(f"{block.name} has no outputs of the full-precision model, which are the target of learning")
    spec, clip = work.scheme.activations, activation_clip(work.online)
    static: Mapping[str, Tensor] = {}
    if spec is not None and spec.static:
        ranges = input_ranges(block, len(block.inputs), work.dtype)
        largest = {name: max(float(-low.min()), float(high.max())) for name, (low, high) in ranges.items()}
        static = {name: block.inputs.new_tensor(static_scale(spec, size, clip)) for name, size in largest.items()}
    plain = {name: block.linear(name) for group in block.groups for name in group.linears}
    required = [(parameter, parameter.requires_grad) for parameter in block.module.parameters()]
    inputs = {g.linears[0]: LearnedInput(spec, work.dtype, static.get(g.linears[0]), clip) for g in block.groups}
    linears: dict[str, LearnedLinear] = {}
    try:
        for group in block.groups:
            for name in group.linears:
                linears[name] = LearnedLinear(inputs[group.linears[0]], plain[name].bias)
                transfer_hooks_(plain[name], linears[name])
                work.model.set_submodule(name, linears[name])
        for parameter, _ in required:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield LearningBlock(block, inputs, linears, block.exact_outputs)
    finally:
        for name, linear in plain.items():
            work.model.set_submodule(name, linear)
        for parameter, requires_grad in required:
            parameter.requires_grad_(requires_grad)


def learn(block: LearningBlock, learner: Learner[T], schedule: Schedule, work: Work) -> T:
    """Learn, and return the best state on the held-out windows.

    If a loss is not finite, learning stops, the initial state is returned and a note says so.
    """
    start = learner.kept()
    taught, checked = _divided(len(block.block.inputs), schedule)
    best, least = start, block.judge(learner, checked)
    learner.begin_()
    draws = _draws(taught, schedule.batch, torch.Generator().manual_seed(work.seed))
    looks = {round(schedule.iterations * (look + 1) / schedule.checks) for look in range(schedule.checks)}
    for iteration, batch in zip(range(1, schedule.iterations + 1), draws, strict=False):
        loss = block.loss(learner.weights(), batch)
        if not torch.isfinite(loss):
            work.notes.append(
                f"{block.block.name}: the loss of step {iteration} was not finite; learning stopped there, and the "
                "block was rounded to nearest"
            )
            return start
        loss.backward()
        learner.step_((iteration - 1) / schedule.iterations)
        if iteration in looks and (now := block.judge(learner, checked)) < least:
            best, least = learner.kept(), now
    return best


def input_ranges(
    block: CurrentBlock, samples: int, dtype: torch.dtype
) -> dict[str, tuple[Float[Tensor, " in"], Float[Tensor, " in"]]]:
    """Smallest and largest value of each input channel in the full-precision model, by first linear of the group.

    Args:
        block: A block with its linears in place and its exact inputs.
        samples: Number of windows to read.
        dtype: Dtype in which linears multiply.
    """
    if block.exact_inputs is None:
        raise ValueError(f"{block.name} has no inputs of the full-precision model, which its ranges are taken from")
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(name: str, x: Tensor) -> None:
        low, high = torch.aminmax(x.flatten(0, -2), dim=0)
        if name in ranges:
            low, high = torch.minimum(low, ranges[name][0]), torch.maximum(high, ranges[name][1])
        ranges[name] = (low, high)

    firsts = [group.linears[0] for group in block.groups]
    with torch.no_grad(), multiplying_in(block.module, dtype):
        hooks = [
            _module(block, name).register_forward_pre_hook(lambda _m, args, name=name: observe(name, args[0]))
            for name in firsts
        ]
        try:
            for part in block.batches():
                if part.start < samples:
                    block.run(block.exact_inputs[part])
        finally:
            for hook in hooks:
                hook.remove()
    return ranges


def refusal_to_learn(scheme: Scheme) -> str | None:
    """Why rounding to a scheme cannot be learned here; None if it can."""
    if scheme.weights is None:
        return f"{scheme} leaves the weights of linears alone, so there is no rounding to learn; use rtn"
    grids = [grid_of(spec) for spec in (scheme.weight_specs if scheme.mixture or scheme.table else (scheme.weights,))]
    if not all(grid.uniform and grid.rule in ("span", "extreme") for grid in grids):
        return (
            f"it learns the rounding and ranges of integers with equal steps, and {scheme} has none; "
            "use an integer scheme such as W4A16g64, or gptq"
        )
    if scheme.activations is not None and scheme.activations.block_size is not None:
        return f"it needs activations with one scale for each token, but {scheme} has them in blocks; use gptq"
    return None


def _module(block: CurrentBlock, name: str) -> nn.Module:
    return block.module.get_submodule(name.removeprefix(f"{block.name}."))


def _divided(samples: int, schedule: Schedule) -> tuple[Int[Tensor, " taught"], Int[Tensor, " checked"]]:
    """Windows to learn from and windows to validate on, spread over all; a single window is both."""
    every = torch.arange(samples)
    count = min(schedule.checked, max(1, samples // 4))
    checked = every[:: samples // count][:count]
    taught = every[~torch.isin(every, checked)]
    return (taught, checked) if len(taught) else (every, every)


def _draws(samples: Int[Tensor, " taught"], batch: int, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Endless batches: all windows in a random order, then in another order, and so on."""
    batch = min(batch, len(samples))
    while True:
        order = samples[torch.randperm(len(samples), generator=generator)]
        yield from order.split(batch)[: len(samples) // batch]
