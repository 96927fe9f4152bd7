"""Attention of a tree after a cached prefix, computed part by part.

Several questions after the same examples form one tree. With one mask every question is multiplied with the keys of all
others, to no effect: with 512 nodes after 600 cached tokens that is two fifths of the work. Here consecutive branches
form parts, and a part is multiplied only with the cached keys, the keys of its ancestors and its own. The result is the
same, since a masked key has no weight.

Models whose attention is not transformers' `sdpa` do not use this, nor do layers that pass more to it than queries,
keys, values and a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from slmquant.model.computing.attention import switch_

__all__ = ["Part", "in_parts", "parts_of"]

_NAME = "slmquant-trees"
_PART_NODES = 64
"""Minimum number of nodes in a part (fewer only in a smaller tree); smaller products would be inefficient."""


@dataclass(frozen=True)
class Part:
    """Consecutive nodes of a tree.

    Attributes:
        start: The first node.
        stop: One past the last node.
        sees: Nodes that any of them attends to: ancestors first, then the part's own nodes.
        mask: Added to their scores: for the cached keys, then for `sees`.
    """

    start: int
    stop: int
    sees: Int[Tensor, " seen"]
    mask: Float[Tensor, "1 1 nodes keys"]


def parts_of(starts: Sequence[int], mask: Float[Tensor, "1 1 nodes keys"]) -> list[Part]:
    """Divide a tree into parts, given the `starts` of its branches and a mask over cached keys and nodes."""
    nodes = mask.shape[2]
    cached = mask.shape[3] - nodes
    cuts = [0]
    for start in starts:
        if start - cuts[-1] >= _PART_NODES:
            cuts.append(start)
    parts = []
    for start, stop in zip(cuts, [*cuts[1:], nodes], strict=True):
        rows = mask[:, :, start:stop]
        sees = (rows[0, 0, :, cached:] == 0).any(0).nonzero()[:, 0]
        parts.append(Part(start, stop, sees, torch.cat((rows[..., :cached], rows[..., cached + sees]), dim=-1)))
    return parts


@contextmanager
def in_parts(model: PreTrainedModel, parts: Sequence[Part]) -> Iterator[None]:
    """Within this context `model` computes attention in `parts`, which together form its one input tree."""
    before = model.config._attn_implementation
    if before != "sdpa":
        yield
        return
    current = _current.set(parts)
    try:
        switch_(model, _NAME)
        yield
    finally:
        switch_(model, before)
        _current.reset(current)


_current: ContextVar[Sequence[Part]] = ContextVar("parts of the tree that is run")


def _attend(
    module: nn.Module,
    query: Float[Tensor, "1 heads nodes dim"],
    key: Float[Tensor, "1 kv_heads keys dim"],
    value: Float[Tensor, "1 kv_heads keys value_dim"],
    mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Same result as `sdpa_attention_forward`, `(1, nodes, heads, value_dim)`."""
    parts, nodes = _current.get(), query.shape[2]
    cached = key.shape[2] - nodes
    wants_more = dropout or any(options.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if mask is None or wants_more or nodes != parts[-1].stop or cached != mask.shape[3] - nodes:
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **options)
    own_key, own_value = key[:, :, cached:].clone(), value[:, :, cached:].clone()
    out = query.new_empty(1, nodes, query.shape[1], value.shape[-1])
    for part in parts:
        stop = cached + len(part.sees)  # the keys of a part are copied behind the cached keys, which do not move
        key[:, :, cached:stop] = own_key[:, :, part.sees]
        value[:, :, cached:stop] = own_value[:, :, part.sees]
        attended = F.scaled_dot_product_attention(
            query[:, :, part.start : part.stop],
            key[:, :, :stop],
            value[:, :, :stop],
            attn_mask=part.mask,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        out[:, part.start : part.stop] = attended.transpose(1, 2)
    key[:, :, cached:], value[:, :, cached:] = own_key, own_value  # later layers may read them too
    return out, None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
