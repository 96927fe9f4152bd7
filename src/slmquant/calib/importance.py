"""Hessians whose tokens are weighted by their importance to the model's predictions, linear by linear.

Let `y` be the output of a linear at a token, and `L = −Σ log p(label)` over a window with labels drawn from the model
itself. An error `e` of `y` costs `E[KL] ≈ ½ E[(∂L/∂y · e)²]`, the quadratic form of the Fisher information; if all
directions are taken as equally bad, it is `|∂L/∂y|² |e|²` up to a factor, so

    H = Σ_t |∂L/∂y_t|² x_t x_tᵀ / Σ_t |∂L/∂y_t|²

Linears that read the same input are rounded under one Hessian, and their squared gradients are summed. GuidedQuant (Kim
et al., ICML 2025, arXiv 2505.07004) weights tokens in the same way, from the gradient of the loss on the text itself
and in groups of output channels.

The gradient passes through attention, so the weight of a first token includes that all others attend to it. It does not
include that two errors may cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it
from transformers import PreTrainedModel

from slmquant.core import hessian
from slmquant.errors import NumericalError
from slmquant.model.linears import weight_at
from slmquant.model.structure import Relations
from slmquant.progress import Progress

_TOKENS_AT_ONCE = 1024
"""Tokens of one forward and backward pass; the logits and saved activations of more would not fit into memory."""


class ImportanceObserver:
    """Accumulates the weighted Hessian of one input over forward and backward passes, batch by batch.

    Args:
        name: The first linear that reads the input.
        size: Channels of the input.
        device: Device of the input.
    """

    def __init__(self, name: str, size: int, device: torch.device) -> None:
        self.name = name
        self._H = torch.zeros(size, size, device=device)
        self._total = 0.0
        self._inputs: list[Tensor] = []
        self._weights: list[Tensor | None] = []

    def watch(self, linears: Sequence[nn.Module], hooks: ExitStack) -> None:
        """Hook all linears that read the input; the first one's input is kept until `take_in_`."""
        for index, linear in enumerate(linears):
            hooks.callback(linear.register_forward_hook(self._hook(first=index == 0)).remove)

    def take_in_(self) -> None:
        """Add the inputs and gradients of the latest pass to the Hessian."""
        with torch.no_grad():
            for x, weights in zip(self._inputs, self._weights, strict=True):
                if weights is not None:
                    hessian.add_outer_(self._H, hessian.weighted(x, weights))
                    self._total += float(weights.sum(dtype=torch.float64))
        self._inputs.clear()
        self._weights.clear()

    def finished(self) -> Float[Tensor, "in in"]:
        """The weighted mean; call it once, after all batches.

        Raises:
            NumericalError: No prediction depends on these linears, or a gradient was not finite.
        """
        if not 0 < self._total < float("inf"):
            raise NumericalError(
                f"the gradient at the output of {self.name!r} is {'zero' if self._total == 0 else 'not finite'}, so "
                "its tokens have no importance weights; use a method that does not need them"
            )
        return hessian.finish_(self._H, self._total)

    def _hook(self, first: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_linear: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
            if first:
                self._inputs.append(hessian.multiplied(args[0].detach(), torch.float32))
                self._weights.append(None)
            outputs.register_hook(partial(self._add_, len(self._inputs) - 1))

        return hook

    def _add_(self, call: int, gradient: Tensor) -> None:
        squares = gradient.detach().flatten(0, -2).float().square().sum(dim=1)
        before = self._weights[call]
        self._weights[call] = squares if before is None else before + squares


def importance_hessians(
    model: PreTrainedModel, relations: Relations, windows: Int[Tensor, "samples seq"], progress: Progress, seed: int = 0
) -> dict[str, Float[Tensor, "in in"]]:
    """First linear of each group, or the head → the Hessian with tokens weighted by importance.

    Args:
        model: The full-precision model; it is unchanged afterwards.
        relations: Which linears share an input, and which module makes logits.
        windows: Calibration tokens.
        progress: Receives progress updates.
        seed: Random seed of the labels.

    Raises:
        NumericalError: A gradient was not finite, or the predictions do not depend on a linear.
    """
    readers = {group.linears[0]: [model.get_submodule(name) for name in group.linears] for group in relations.groups}
    sizes = {name: weight_at(model, name).shape[1] for name in readers}
    head = model.get_output_embeddings()
    if relations.head_weight is not None and head is not None:
        readers[relations.head_weight] = [head]
        sizes[relations.head_weight] = head.get_parameter("weight").shape[1]
    progress.start("weigh tokens by their gradients", len(windows))
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as hooks:
        hooks.enter_context(differentiable(model))
        observers = {name: ImportanceObserver(name, sizes[name], model.device) for name in readers}
        for name, observer in observers.items():
            observer.watch(readers[name], hooks)
        generator = torch.Generator(device=model.device).manual_seed(seed)
        for part in torch.split(windows.clone(), max(1, _TOKENS_AT_ONCE // windows.shape[1])):
            drawn_loss(model(input_ids=part.to(model.device), use_cache=False).logits, generator).backward()
            for observer in observers.values():
                observer.take_in_()
            progress.advance(len(part))
        return {name: observer.finished() for name, observer in observers.items()}


def drawn_loss(logits: Float[Tensor, "batch seq vocab"], generator: torch.Generator) -> Float[Tensor, ""]:
    """`−Σ log p(label)` over all tokens, each label drawn from the logits' distribution."""
    flat = logits.flatten(0, -2).float()
    labels = torch.multinomial(flat.detach().softmax(dim=-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(flat, labels, reduction="sum")


@contextmanager
def differentiable(model: PreTrainedModel) -> Iterator[None]:
    """Let gradients flow back to the embedding's output, and to no parameter."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _module, _args, out: out.detach().requires_grad_())
    try:
        yield
    finally:
        hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
