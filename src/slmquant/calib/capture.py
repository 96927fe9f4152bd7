"""Captures every method's statistics in one forward pass over the calibration tokens.

The full-precision model reads each window once; a hook on the first linear of every input group accumulates the
requested statistics. Activations themselves are not kept, so memory does not grow with the number of tokens.
Hessians weighted by importance need a forward and backward pass of their own, see `calib.importance`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.calib.importance import importance_hessians
from slmquant.calib.statistics import InputStatistics, Statistic, Statistics
from slmquant.core import hessian
from slmquant.errors import NumericalError
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.linears import weight_at
from slmquant.model.running.block_walk import CurrentBlock
from slmquant.model.running.output_head import OutputHead
from slmquant.model.structure import InputGroup, Relations
from slmquant.progress import Progress, Silent

_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Captured:
    """Captured statistics of the full-precision model.

    Attributes:
        statistics: First linear of each group → its input's statistics; the head's input under its weight's name.
        tokens: Number of calibration tokens.
    """

    statistics: Statistics
    tokens: int


class _Observer:
    """Accumulates the statistics of one input group.

    All its tensors are allocated up front: small tensors that are created during a forward pass and outlive it would
    lie between large freed ones and fragment the heap, so that memory would grow with every batch.
    """

    def __init__(self, name: str, like: Tensor, samples: int, wanted: Collection[Statistic]) -> None:
        size, device = like.shape[1], like.device
        self.name = name
        self.absmax = torch.zeros(size, device=device)
        self.magnitudes = torch.zeros(size, dtype=torch.float64, device=device)
        self.squares = torch.zeros(size, dtype=torch.float64, device=device)
        self.first = torch.zeros(samples, size, device=device)
        self.peaks = torch.zeros((), dtype=torch.float64, device=device)
        self.H = torch.zeros(size, size, device=device) if "hessian" in wanted else None
        self.H_energy = torch.zeros(size, size, device=device) if "hessian_energy" in wanted else None
        self.samples = 0
        self.tokens = 0
        self.batch = torch.Size()

    def __call__(self, linear: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.observe(args[0], linear.get_parameter("weight").dtype)

    def observe(self, inputs: Tensor, dtype: torch.dtype) -> None:
        """Add the input of a linear that multiplies in `dtype`, of shape `(batch, seq, in)` or `(tokens, in)`.

        Some architectures flatten all tokens of a batch into one dimension; others route some to each expert.
        """
        if inputs.ndim == 2 and len(inputs) == self.batch.numel():
            inputs = inputs.unflatten(0, self.batch)
        if inputs.ndim == 3:
            batch = len(inputs)
            self.first[self.samples : self.samples + batch].copy_(inputs[:, 0])
            self.samples += batch
        x = inputs.flatten(0, -2).float()
        self.tokens += len(x)
        if inputs.ndim == 3:
            self.peaks.add_(torch.linalg.vector_norm(inputs, dim=-1, dtype=torch.float32).amax(dim=1).square().sum())
        magnitude = x.abs()  # reduced along tokens by plain sums: torch's vector norms take ten times as long there
        torch.maximum(self.absmax, magnitude.amax(dim=0), out=self.absmax)
        self.magnitudes.add_(magnitude.sum(dim=0))
        self.squares.add_(magnitude.square_().sum(dim=0))
        if self.H is not None:
            hessian.add_outer_(self.H, hessian.multiplied(inputs, dtype))
        if self.H_energy is not None:
            rows = hessian.multiplied(inputs, dtype)
            hessian.add_outer_(self.H_energy, hessian.weighted(rows, hessian.energy_weights(rows)))

    def result(self) -> InputStatistics:
        if self.tokens == 0:
            raise NumericalError(f"no calibration token reached {self.name!r}; use more or other calibration text")
        if not torch.isfinite(self.squares).all():
            raise NumericalError(f"the inputs of {self.name!r} contain NaN or infinity on the calibration tokens")
        total, seen = float(self.squares.sum()), self.samples > 0
        return InputStatistics(
            absmax=self.absmax,
            absmean=(self.magnitudes / self.tokens).float(),
            rms=(self.squares / self.tokens).sqrt().float(),
            hessian=None if self.H is None else hessian.finish_(self.H, self.tokens),
            first=self.first if seen else None,
            hessian_energy=None if self.H_energy is None else hessian.finish_(self.H_energy, self.tokens),
            peak_share=(self.peaks / total).float() if seen and total > 0 else None,
        )


@torch.inference_mode()
def capture(
    model: PreTrainedModel,
    relations: Relations,
    windows: Int[Tensor, "samples seq"],
    wanted: Collection[Statistic],
    progress: Progress | None = None,
) -> Captured:
    """Run `model` over `windows` and collect statistics of the input of every group.

    Args:
        model: The full-precision model, in the compute dtype; statistics are in float32.
        relations: Which linears share an input, and which module makes logits.
        windows: Calibration tokens.
        wanted: Kinds of statistics; `range` is always included, as it is nearly free.
        progress: Receives progress updates.

    Raises:
        NumericalError: An input was not finite, or a linear never ran.
    """
    progress = progress or Silent()
    observers = {
        name: _Observer(name, weight_at(model, name), len(windows), wanted)
        for name in (group.linears[0] for group in relations.groups)
    }
    hooks = [model.get_submodule(name).register_forward_pre_hook(obs) for name, obs in observers.items()]
    head = _head_observer(model, relations, len(windows), wanted)
    body = OutputHead(model)
    batch = max(1, _BATCH_TOKENS // windows.shape[1])
    progress.start("calibrate", len(windows))
    try:
        for part in torch.split(windows, batch):
            for observer in observers.values():
                observer.batch = part.shape
            hidden = body.hidden(part.to(model.device))
            if head is not None:
                head.observe(hidden, torch.float32)
            progress.advance(len(part))
    finally:
        for hook in hooks:
            hook.remove()
    all_observers = observers if head is None else observers | {head.name: head}
    statistics = {name: observer.result() for name, observer in all_observers.items()}
    if "hessian_importance" in wanted:
        by_importance = importance_hessians(model, relations, windows, progress)
        statistics = {name: replace(seen, hessian_importance=by_importance[name]) for name, seen in statistics.items()}
    return Captured(statistics, windows.numel())


@torch.no_grad()
def capture_block(
    block: CurrentBlock, groups: Sequence[InputGroup], wanted: Collection[Statistic], dtype: torch.dtype
) -> Statistics:
    """Statistics of the inputs of some groups of a block, as computed by the quantized blocks before it.

    Args:
        block: The block, with its current weights.
        groups: Some of its groups.
        wanted: Kinds of statistics; `range` is always included. `hessian_importance` is not possible, as it needs
            gradients from the end of the model.
        dtype: Dtype in which plain linears multiply.

    Raises:
        NumericalError: An input was not finite, or a linear never ran.
        ValueError: `hessian_importance` is wanted.
    """
    if "hessian_importance" in wanted:
        raise ValueError("hessian_importance needs gradients from the end of the model; it has none for one block")
    observers = {}
    with ExitStack() as hooks:
        for name in (group.linears[0] for group in groups):
            observers[name] = _Observer(name, block.weight(name), len(block.inputs), wanted)
            hooks.callback(block.linear(name).register_forward_pre_hook(observers[name]).remove)
        hooks.enter_context(multiplying_in(block.module, dtype))
        for part in block.batches():
            for observer in observers.values():
                observer.batch = block.inputs[part].shape[:2]
            block.run(block.inputs[part])
    return {name: observer.result() for name, observer in observers.items()}


def _head_observer(
    model: PreTrainedModel, relations: Relations, samples: int, wanted: Collection[Statistic]
) -> _Observer | None:
    """The observer of the final hidden states, which are the head's input; None if there is no head."""
    name = relations.head_weight
    if name is None:
        return None
    return _Observer(name, model.get_submodule(name).get_parameter("weight"), samples, wanted)
