"""Measures the divergence that rounded weights cause, in the model itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.core.divergence import forward_divergence_
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.computing.modes import ComputeMode, attending_in
from slmquant.model.linears import Linear, weight_at
from slmquant.model.running.output_head import OutputHead

_BLOCK_ELEMENTS = 1 << 23
"""Largest block of float32 logits: 32 MiB."""


class Trial:
    """A model whose weights are replaced by rounded ones and restored, and its full-precision states on a text.

    Args:
        model: The full-precision model; it is unchanged after every measurement.
        windows: Token ids to measure on.
        mode: What products are computed in.
    """

    def __init__(self, model: PreTrainedModel, windows: Int[Tensor, "samples seq"], mode: ComputeMode) -> None:
        self.windows = windows
        self.model, self._mode = model, mode
        self._exact_head = model.get_output_embeddings().get_parameter("weight").detach().clone()
        self.states = self.run()
        """Final hidden states of the full-precision model, `(samples, seq, hidden)`."""

    @property
    def vocabulary(self) -> int:
        """Number of logits of a token."""
        return len(self._exact_head)

    def split(self, count: int) -> tuple[Trial, Trial]:
        """The same measurement on the first `count` windows, and on the others."""
        first, others = copy.copy(self), copy.copy(self)
        first.windows, others.windows = self.windows.split([count, len(self.windows) - count])
        first.states, others.states = self.states.split([count, len(self.states) - count])
        return first, others

    def logits(self, states: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """Full-precision logits of final hidden states."""
        return OutputHead(self.model, self._exact_head, self._mode.head).logits(states).clone()

    def divergence(self, weights: Mapping[str, QuantizedTensor]) -> Float[Tensor, " samples"]:
        """Mean KL from full precision of each window, in nats per token, with these weights rounded."""
        with _rounded(self.model, weights):
            return self.tokens().mean(dim=1)

    @torch.inference_mode()
    def tokens(self) -> Float[Tensor, "samples predictions"]:
        """KL from full precision at each prediction, in nats, of the model as it is now."""
        reference = OutputHead(self.model, self._exact_head, self._mode.head)
        head = OutputHead(self.model, dtype=self._mode.head)
        rows = self._rows
        windows = [
            torch.cat(
                [
                    forward_divergence_(reference.logits(known, again=True), head.logits(states, again=True))
                    for known, states in zip(exact[:-1].split(rows), found[:-1].split(rows), strict=True)
                ]
            )
            for exact, found in zip(self.states, self.run(), strict=True)
        ]
        return torch.stack(windows)

    @torch.inference_mode()
    def confidence(self) -> Float[Tensor, "samples predictions"]:
        """Probability of the most probable next token in full precision."""
        head, rows = OutputHead(self.model, self._exact_head, self._mode.head), self._rows
        found = [
            torch.cat([head.logits(part, again=True).softmax(dim=-1).amax(dim=-1) for part in states[:-1].split(rows)])
            for states in self.states
        ]
        return torch.stack(found)

    @property
    def _rows(self) -> int:
        """Number of tokens whose logits are computed at a time."""
        return max(16, _BLOCK_ELEMENTS // self.vocabulary)

    @torch.inference_mode()
    def run(self) -> Float[Tensor, "samples seq hidden"]:
        """Final hidden states of the model as it is now."""
        body = OutputHead(self.model)
        with multiplying_in(self.model.base_model, self._mode.linears), attending_in(self._mode.attention):
            return torch.cat([body.hidden(window[None]) for window in self.windows])


@contextmanager
def _rounded(model: PreTrainedModel, weights: Mapping[str, QuantizedTensor]) -> Iterator[None]:
    """Within this context the named weights are those that their codes stand for."""
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        try:
            for name, weight in weights.items():
                place = stored_weight(model, name)
                kept[name] = place.clone()
                place.copy_(weight.dequantize())
            yield
        finally:
            for name, before in kept.items():
                stored_weight(model, name).copy_(before)


def stored_weight(model: PreTrainedModel, name: str) -> Float[Tensor, "out in"]:
    """The weight of a linear, an embedding or a head, as a view."""
    module = model.get_submodule(name)
    return weight_at(model, name) if isinstance(module, Linear) else module.get_parameter("weight")
