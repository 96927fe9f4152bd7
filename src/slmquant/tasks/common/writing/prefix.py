"""The common beginning of several prompts, computed once: its keys and values start the cache of every batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from slmquant.model.compatibility.cache_content import caches_only_keys_and_values
from slmquant.model.compatibility.cache_names import cache_argument
from slmquant.model.running.token_trees import Tokens

__all__ = ["SharedPrefix", "common_prefix"]

_SHORTEST_PREFIX = 32
"""Shortest common beginning, in tokens, that is worth a forward pass of its own."""


def common_prefix(prompts: Sequence[Tokens]) -> Tokens:
    """The common beginning of all prompts, leaving each at least one token; empty for a single prompt."""
    if len(prompts) < 2:
        return ()
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    same = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return first[: min(same, min(map(len, prompts)) - 1)]


class SharedPrefix:
    """Keys and values of the prompts' common beginning, computed once.

    Args:
        model: The model.
        tokens: The common beginning; nothing is shared if it is short, or if the model's cache holds anything other
            than the keys and values of all tokens.
    """

    def __init__(self, model: PreTrainedModel, tokens: Tokens) -> None:
        worthwhile = len(tokens) >= _SHORTEST_PREFIX and caches_only_keys_and_values(model)
        self.length = len(tokens) if worthwhile else 0
        self._model = model
        self._layers: list[tuple[Tensor, Tensor]] = []
        if worthwhile:
            cache = DynamicCache()
            ids = torch.tensor([tokens], device=model.device)
            body = model.get_decoder()
            body(input_ids=ids, use_cache=True, **cache_argument(body, cache))
            self._layers = [(keys, values) for keys, values, _ in cache]

    def argument(self, shifts: Sequence[int]) -> dict[str, DynamicCache]:
        """A cache of `length` columns for left-padded rows, as an argument of `generate`; empty if nothing is shared.

        Row `r` starts with `shifts[r]` columns of padding, so its first `length` columns hold that much padding and
        the beginning of the prefix; the rest of the prefix is computed again with the row. This is exact, because keys
        encode their own position, not their column.
        """
        if not self.length:
            return {}
        cache = DynamicCache()
        for layer, pair in enumerate(self._layers):
            keys, values = (self._shifted(states, shifts) for states in pair)
            cache.update(keys, values, layer)
        return cache_argument(self._model, cache)

    def _shifted(self, states: Tensor, shifts: Sequence[int]) -> Tensor:
        """`(1, heads, length, dim)` to `(rows, heads, length, dim)`."""
        rows = states.new_zeros(len(shifts), *states.shape[1:])
        for row, shift in enumerate(shifts):
            if shift < self.length:
                rows[row, :, shift:] = states[0, :, : self.length - shift]
        return rows
