"""How much an error at the output of a linear costs, token by token and channel by channel.

With `y` the output of a linear and `L = −Σ log p(label)`, labels drawn from the model itself, an error `e` of `y` costs

    E[KL] ≈ ½ Σ_t E[(Σ_i g_ti e_ti)²] ≈ ½ Σ_t Σ_i g_ti² e_ti²    g = ∂L/∂y

to second order (the Fisher information is the Hessian of the divergence at the model itself). The second step takes
errors of different channels as uncorrelated. As the sum is over the tokens themselves, a massive activation costs what
it costs, however large it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.calib.importance import differentiable, drawn_loss
from slmquant.errors import NumericalError
from slmquant.model.computing.products import onednn_products
from slmquant.model.running.recomputing import recomputing
from slmquant.model.structure import Relations
from slmquant.progress import Progress

_TOKENS_AT_ONCE = 512
"""Tokens of one forward and backward pass."""


@dataclass(frozen=True)
class Curvature:
    """The inputs of a linear, and the squared gradients at its output, over some tokens; kept in bfloat16.

    Attributes:
        inputs: `x`; linears that read the same input share it.
        squares: `g²`.
    """

    inputs: Float[Tensor, "tokens in"]
    squares: Float[Tensor, "tokens out"]

    def cost(self, error: Float[Tensor, "out in"]) -> float:
        """Predicted divergence, in nats per token, of an error of the weight."""
        moved = self._outputs(error)
        return float((moved.square_() * self.squares.float()).sum(dtype=torch.float64)) / (2 * len(self.inputs))

    def size(self, weight: Float[Tensor, "out in"]) -> float:
        """Root of the mean squared output of a weight, or of an error of it."""
        return float(self._outputs(weight).square_().mean().sqrt())

    def _outputs(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "tokens out"]:
        if weight.dtype == torch.float64:
            return self.inputs.double() @ weight.T
        with onednn_products():
            return torch.mm(self.inputs.float(), weight.T)


@dataclass
class _Recorder:
    """Keeps the inputs and gradients of one group of linears.

    Attributes:
        linears: Their names.
        forward: Whether a forward pass is running; blocks are computed again in backward passes (`recomputing`).
        inputs: Inputs so far.
        squares: Squared gradients at the outputs of each linear so far.
    """

    linears: Sequence[str]
    forward: bool = True
    inputs: list[Tensor] = field(default_factory=list)
    squares: dict[str, list[Tensor]] = field(default_factory=dict)

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        kept = self.squares.setdefault(name, [])

        def run(_linear: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
            if self.forward:
                if name == self.linears[0]:
                    self.inputs.append(args[0].detach().flatten(0, -2).bfloat16())
                outputs.register_hook(partial(self._add_, kept))

        return run

    @staticmethod
    def _add_(kept: list[Tensor], gradient: Tensor) -> None:
        kept.append(gradient.detach().flatten(0, -2).float().square().bfloat16())

    def finished(self) -> dict[str, Curvature]:
        inputs = torch.cat(self.inputs)
        found = {name: Curvature(inputs, torch.cat(several)) for name, several in self.squares.items()}
        for name, curvature in found.items():
            if not torch.isfinite(curvature.squares).all() or not curvature.squares.any():
                raise NumericalError(f"the gradients at the output of {name!r} are zero or not finite")
        return found


def curvatures(
    model: PreTrainedModel, relations: Relations, windows: Int[Tensor, "samples seq"], progress: Progress, seed: int = 0
) -> dict[str, Curvature]:
    """The curvature of every linear of the blocks.

    Args:
        model: The full-precision model; it is unchanged afterwards.
        relations: Which linears share an input.
        windows: Token ids.
        progress: Receives progress updates.
        seed: Random seed of the labels.

    Raises:
        NumericalError: A gradient was not finite, or the predictions do not depend on a linear.
    """
    recorders = [_Recorder(group.linears) for group in relations.groups]
    progress.start("measure what errors cost", len(windows))
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as hooks:
        hooks.enter_context(differentiable(model))
        hooks.enter_context(recomputing(model, relations.blocks))
        for recorder in recorders:
            for name in recorder.linears:
                handle = model.get_submodule(name).register_forward_hook(recorder.hook(name))
                hooks.callback(handle.remove)
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
