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
        self._model, self._mode = model, mode
        self._exact_head = model.get_output_embeddings().get_parameter("weight").detach().clone()
        self.states = self._states()
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
        return OutputHead(self._model, self._exact_head, self._mode.head).logits(states).clone()

    @torch.inference_mode()
    def divergence(self, weights: Mapping[str, QuantizedTensor]) -> Float[Tensor, " samples"]:
        """Mean KL from full precision of each window, in nats per token, with these weights rounded."""
        with _rounded(self._model, weights):
            reference = OutputHead(self._model, self._exact_head, self._mode.head)
            head = OutputHead(self._model, dtype=self._mode.head)
            rows = max(16, _BLOCK_ELEMENTS // len(self._exact_head))
            means = [
                torch.cat(
                    [
                        forward_divergence_(reference.logits(known, again=True), head.logits(states, again=True))
                        for known, states in zip(exact[:-1].split(rows), found[:-1].split(rows), strict=True)
                    ]
                ).mean()
                for exact, found in zip(self.states, self._states(), strict=True)
            ]
        return torch.stack(means)

    @torch.inference_mode()
    def _states(self) -> Float[Tensor, "samples seq hidden"]:
        """Final hidden states with the weights as they are."""
        body = OutputHead(self._model)
        with multiplying_in(self._model.base_model, self._mode.linears), attending_in(self._mode.attention):
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
