"""Runs body and head of a model separately: the body once, the head only for the tokens whose logits are needed.

With a vocabulary of 49,152 one float32 row of logits has 197 kB, while its hidden state has 1-2 kB. So evaluation keeps
hidden states, also those of the reference model for divergences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from slmquant.model.computing.products import onednn_is_exact, onednn_products


class _Output(BaseModelOutputWithPast):
    """Output of a body; every other attribute that a model may read (router logits, states, ...) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Replay(nn.Module):
    """Replaces the body and returns given hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    @property
    def decoder(self) -> _Replay:  # OPT calls `model.decoder`
        return self

    def forward(self, *_args: object, **_kwargs: object) -> _Output:
        return _Output(last_hidden_state=self.hidden)


class OutputHead:
    """The last step of a causal language model: final hidden states to logits.

    Operations of an architecture around its head (soft caps, logit scales, biases) are included, because the model's
    own `forward` runs, with its body replaced by the given states. Logits are in float32, whatever the body's dtype: a
    logit of 20 rounded to bfloat16 is off by up to 0.06, which would be a lower limit of every divergence.

    Args:
        model: A transformers causal language model; it is used, not copied.
        weight: A head weight, shape `(vocab, hidden)`, to use instead of the model's own. Given the full-precision
            weight, a quantized model can still compute the reference's logits.
        dtype: What states and weight are rounded to before their product, on processors that multiply faster in it.
    """

    def __init__(
        self, model: PreTrainedModel, weight: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self._model, self._weight, self._dtype = model, weight, dtype
        self._head: _BlockLinear | None = None

    @torch.inference_mode()
    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Final hidden states, shape `(batch, seq, hidden)`, of token ids of shape `(batch, seq)`."""
        body = self._model.get_decoder()
        return cast(Tensor, body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0])

    @torch.inference_mode()
    def logits(self, hidden: Tensor, *, again: bool = False) -> Tensor:
        """Logits, shape `(tokens, vocab)` in float32, of final hidden states of shape `(tokens, hidden)`.

        The result is a whole `tokens × vocab` block, so pass few tokens at a time; the caller may modify it. With
        `again` the memory of the previous result is reused, which overwrites its logits: a block has tens of megabytes,
        and allocating it costs as much time as the product itself.
        """
        with self._replayed(hidden[None].float()) as head:
            head.block, kept = (head.block if again else None), head.block
            out = self._model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device))
            if not again:
                head.block = kept
        return cast(Tensor, out.logits)[0].float()

    @contextmanager
    def _replayed(self, hidden: Tensor) -> Iterator[_BlockLinear]:
        prefix = self._model.base_model_prefix
        body, head = getattr(self._model, prefix), self._model.get_output_embeddings()
        if self._head is None:
            weight = head.weight if self._weight is None else self._weight
            self._head = _linear(weight.float(), getattr(head, "bias", None))
            self._head.rounds = self._dtype == torch.bfloat16
        setattr(self._model, prefix, _Replay(hidden))
        self._model.set_output_embeddings(self._head)
        try:
            yield self._head
        finally:
            setattr(self._model, prefix, body)
            self._model.set_output_embeddings(head)


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits, `(tokens, vocab)`, of final hidden states of shape `(tokens, hidden)`.

    They are differentiable in the states and in the parameters of the head.
    """
    prefix = model.base_model_prefix
    body = getattr(model, prefix)
    setattr(model, prefix, _Replay(hidden[None]))
    try:
        return cast(Tensor, model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long)).logits)[0].float()
    finally:
        setattr(model, prefix, body)


class _BlockLinear(nn.Linear):
    """A linear that writes its output into the buffer `block`, which it allocates if missing or too small.

    Its result is in float32; if `rounds`, its operands may be rounded to bfloat16.
    """

    block: Tensor | None = None
    rounds = False

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(end_dim=-2)
        if self.block is None or len(self.block) < len(rows):
            self.block = x.new_empty(len(rows), self.out_features)
        with onednn_products() if self.rounds or onednn_is_exact() else nullcontext():
            out = torch.mm(rows, self.weight.T, out=self.block[: len(rows)])
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)


def _linear(weight: Tensor, bias: Tensor | None) -> _BlockLinear:
    """A float32 linear around an existing weight."""
    out_features, in_features = weight.shape
    linear = _BlockLinear(in_features, out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return linear
