"""How much an error at the output of a linear costs, token by token and channel by channel.

With `y` the output of a linear and `L = −Σ log p(label)`, labels drawn from the model itself, an error `e` of `y` costs

    E[KL] ≈ ½ Σ_t E[(Σ_i g_ti e_ti)²] ≈ ½ Σ_t Σ_i g_ti² e_ti²    g = ∂L/∂y

to second order (the Fisher information is the Hessian of the divergence at the model itself). The second step takes
errors of different channels as uncorrelated. As the sum is over the tokens themselves, a massive activation costs what
it costs, however large it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.calib.importance import differentiable, drawn_loss
from slmquant.errors import NumericalError
from slmquant.model.computing.modes import FLOAT32, ComputeMode, attending_in
from slmquant.model.computing.products import onednn_products
from slmquant.model.linears import weight_at
from slmquant.model.running.recomputing import recomputing
from slmquant.model.structure import Relations
from slmquant.progress import Progress

_TOKENS_AT_ONCE = 512
"""Tokens of one forward and backward pass."""


class Effect(NamedTuple):
    """What an error of a weight does.

    Attributes:
        cost: Predicted divergence, in nats per token.
        size: Root of the mean squared change of the output.
    """

    cost: float
    size: float


@dataclass(frozen=True)
class Curvature:
    """The inputs of a linear, and the squared gradients at its output, over some tokens; kept in bfloat16.

    Attributes:
        inputs: `x`; linears that read the same input share it.
        squares: `g²`.
    """

    inputs: Float[Tensor, "tokens in"]
    squares: Float[Tensor, "tokens out"]

    def effect(self, error: Float[Tensor, "out in"]) -> Effect:
        """What an error of the weight does."""
        moved = self._outputs(error).square_()
        size = float(moved.mean().sqrt())
        return Effect(float(moved.mul_(self.squares).sum(dtype=torch.float64)) / (2 * len(self.inputs)), size)

    def size(self, weight: Float[Tensor, "out in"]) -> float:
        """Root of the mean squared output of a weight."""
        return float(self._outputs(weight).square_().mean().sqrt())

    def _outputs(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "tokens out"]:
        if weight.dtype == torch.float64:
            return self.inputs.double() @ weight.T
        with onednn_products():
            return torch.mm(self.inputs.float(), weight.T)


class _Recorder:
    """Keeps the inputs and gradients of one group of linears.

    Their memory is allocated once: tensors that are kept from every pass would lie between freed ones, and the heap
    would grow with every pass.

    Args:
        model: The model.
        linears: The names of the linears.
        tokens: Most tokens that they read.
    """

    def __init__(self, model: PreTrainedModel, linears: Sequence[str], tokens: int) -> None:
        shapes = {name: weight_at(model, name).shape for name in linears}
        self.forward = True
        """Whether a forward pass is running; blocks are computed again in backward passes (`recomputing`)."""
        self._inputs = torch.zeros(tokens, shapes[linears[0]][1], dtype=torch.bfloat16, device=model.device)
        self._squares = {
            name: torch.zeros(tokens, shape[0], dtype=torch.bfloat16, device=model.device)
            for name, shape in shapes.items()
        }
        self._begin = self._end = 0

    def watch(self, model: PreTrainedModel, hooks: ExitStack) -> None:
        """Hook all linears."""
        for index, name in enumerate(self._squares):
            hook = partial(self._observe, name, index == 0)
            hooks.callback(model.get_submodule(name).register_forward_hook(hook).remove)

    def _observe(self, name: str, first: bool, _linear: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
        if not self.forward:
            return
        if first:
            rows = args[0].detach().flatten(0, -2)
            self._begin, self._end = self._end, self._end + len(rows)
            self._inputs[self._begin : self._end].copy_(rows)
        outputs.register_hook(partial(self._add_, self._squares[name][self._begin : self._end]))

    @staticmethod
    def _add_(squares: Tensor, gradient: Tensor) -> None:
        squares.copy_(gradient.detach().flatten(0, -2).float().square())

    def finished(self) -> dict[str, Curvature]:
        """The curvature of each linear."""
        inputs = self._inputs[: self._end]
        found = {name: Curvature(inputs, squares[: self._end]) for name, squares in self._squares.items()}
        for name, curvature in found.items():
            if not torch.isfinite(curvature.squares).all() or not curvature.squares.any():
                raise NumericalError(f"the gradients at the output of {name!r} are zero or not finite")
        return found


def curvatures(
    model: PreTrainedModel,
    relations: Relations,
    windows: Int[Tensor, "samples seq"],
    progress: Progress,
    mode: ComputeMode = FLOAT32,
    seed: int = 0,
) -> dict[str, Curvature]:
    """The curvature of every linear of the blocks.

    Args:
        model: The full-precision model; it is unchanged afterwards.
        relations: Which linears share an input.
        windows: Token ids.
        progress: Receives progress updates.
        mode: What products are computed in.
        seed: Random seed of the labels.

    Raises:
        NumericalError: A gradient was not finite, or the predictions do not depend on a linear.
    """
    progress.start("measure what errors cost", len(windows))
    attention = partial(attending_in, mode.attention)
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as hooks:
        hooks.enter_context(differentiable(model))
        if mode.linears == torch.bfloat16:
            hooks.enter_context(onednn_products())
        hooks.enter_context(attention())
        hooks.enter_context(recomputing(model, relations.blocks, attention))
        recorders = [_Recorder(model, group.linears, windows.numel()) for group in relations.groups]
        for recorder in recorders:
            recorder.watch(model, hooks)
        generator = torch.Generator(device=model.device).manual_seed(seed)
        for part in torch.split(windows.clone(), max(1, _TOKENS_AT_ONCE // windows.shape[1])):
            loss = drawn_loss(model(input_ids=part.to(model.device), use_cache=False).logits, generator)
            _set_forward_(recorders, False)
            loss.backward()
            _set_forward_(recorders, True)
            progress.advance(len(part))
    return {name: curvature for recorder in recorders for name, curvature in recorder.finished().items()}


def _set_forward_(recorders: Iterable[_Recorder], running: bool) -> None:
    for recorder in recorders:
        recorder.forward = running
