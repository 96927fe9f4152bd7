"""Attention over a cache whose latest tokens are in full precision, as in KIVI.

Liu, Yuan, Jin, et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024, arXiv 2402.02750,
algorithm 1. With `R` recent tokens, the query at position `t` reads

    keys     rounded at positions below floor(t / R) · R, else in full precision: they are rounded `R` at a time;
    values   rounded at positions up to t − R, else in full precision: the last `R` stay in full precision.

One parallel forward pass gives the same result as decoding token by token: queries between two multiples of `R` share
their keys, and only the `R` values before them are rounded for some of these queries but not for others. Those `R`
positions are passed to attention twice, once with each kind of value, and a mask lets every query see one of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Cache", "attend_recent"]

Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""An attention function of transformers: `(module, query, key, value, mask, **options)` to output and weights."""


class Cache(NamedTuple):
    """Keys and values of all positions, in full precision and rounded.

    Attributes:
        key: Keys in full precision.
        value: Values in full precision.
        rounded_key: Rounded keys, at least of the positions below the last multiple of `R`.
        rounded_value: Rounded values of all positions.
    """

    key: Float[Tensor, "batch kv_heads tokens dim"]
    value: Float[Tensor, "batch kv_heads tokens value_dim"]
    rounded_key: Float[Tensor, "batch kv_heads _ dim"]
    rounded_value: Float[Tensor, "batch kv_heads tokens value_dim"]


def attend_recent(
    attend: Attend,
    module: nn.Module,
    query: Float[Tensor, "batch heads queries dim"],
    cache: Cache,
    mask: Tensor | None,
    recent: int,
    **options: object,
) -> Float[Tensor, "batch queries heads value_dim"]:
    """Attention output for queries at the last positions of the cache, with `recent` tokens in full precision.

    Args:
        attend: Computes attention of given keys and values under a mask.
        module: The attention module, passed to `attend`.
        query: Queries at the last positions.
        cache: Keys and values that they attend to.
        mask: Positions that each query may see, in the form of `attend`: added to the scores, or True for visible; None
            for all positions up to the query's own.
        recent: `R`.
        **options: Passed to `attend`.
    """
    tokens, queries = cache.key.shape[-2], query.shape[-2]
    mask = _additive(mask, query, tokens)
    positions = torch.arange(tokens - queries, tokens, device=query.device)
    outputs = []
    for group in torch.unique_consecutive(positions // recent).tolist():
        inside = positions // recent == group
        boundary, mixed = group * recent, max(0, (group - 1) * recent)
        key = torch.cat(
            [
                cache.rounded_key[..., :boundary, :],
                cache.rounded_key[..., mixed:boundary, :],
                cache.key[..., boundary:, :],
            ],
            dim=-2,
        )
        value = torch.cat(
            [
                cache.rounded_value[..., :boundary, :],
                cache.value[..., mixed:boundary, :],
                cache.value[..., boundary:, :],
            ],
            dim=-2,
        )
        rows = mask[..., inside, :]
        old = torch.arange(boundary, device=query.device) <= positions[inside, None] - recent
        seen = torch.cat(
            [
                _only(rows[..., :boundary], old),
                _only(rows[..., mixed:boundary], ~old[:, mixed:]),
                rows[..., boundary:],
            ],
            dim=-1,
        )
        output, _ = attend(module, query[..., inside, :], key, value, seen, **options)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def _additive(mask: Tensor | None, query: Tensor, tokens: int) -> Float[Tensor, "*batch queries tokens"]:
    """The mask in its additive form."""
    if mask is None:
        queries = query.shape[-2]
        seen = torch.ones(queries, tokens, dtype=torch.bool, device=query.device).tril_(tokens - queries)
        mask = seen[None, None]
    if mask.dtype != torch.bool:
        return mask[..., :tokens]
    nothing = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    return _only(nothing, mask)[..., :tokens]


def _only(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
