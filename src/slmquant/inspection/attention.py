"""Attention on the first token, head by head: the sink of Xiao et al. 2024 (arXiv 2309.17453).

Gu et al., "When Attention Sink Emerges in Language Models" (ICLR 2025, arXiv 2410.10781), call a head a sink if its
mean attention on the first token is above 0.3.

*Deviation.* The mean is over tokens that see the first one and are not the first one themselves, which attends to
nothing else.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from slmquant.model.computing.attention import AttentionCall
from slmquant.store.inspected import AttentionFacts

__all__ = ["FirstTokenObserver"]


class FirstTokenObserver:
    """Accumulates the attention of one layer on the first token.

    Args:
        layer: Number of its block.
    """

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self._shares: Tensor | None = None
        self._even = 0.0
        self._tokens = 0

    def observe(self, call: AttentionCall) -> None:
        """Add a call of attention that returned its weights."""
        if call.weights is None or call.weights.shape[2] < 2:
            return
        sees = _visible(call)[:, 1:]
        later = sees[..., 0]
        shares = (call.weights[:, :, 1:, 0].double() * later[:, None]).sum(dim=(0, 2))
        self._shares = shares if self._shares is None else self._shares + shares
        self._even += float((later / sees.sum(dim=-1)).sum())
        self._tokens += int(later.sum())

    def facts(self) -> AttentionFacts | None:
        """The figures; None if no call was observed."""
        if self._shares is None or not self._tokens:
            return None
        return AttentionFacts(
            layer=self._layer,
            first_share=tuple((self._shares / self._tokens).tolist()),
            even_share=self._even / self._tokens,
        )


def _visible(call: AttentionCall) -> Bool[Tensor, "batch queries keys"]:
    """Which keys each query may attend to."""
    assert call.weights is not None  # noqa: S101  # for the type checker
    batch, _, queries, keys = call.weights.shape
    if call.mask is None:
        causal = torch.ones(queries, keys, dtype=torch.bool, device=call.weights.device).tril(keys - queries)
        return causal.expand(batch, -1, -1)
    mask = call.mask[:, 0, :, :keys]
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return visible.expand(batch, -1, -1)
