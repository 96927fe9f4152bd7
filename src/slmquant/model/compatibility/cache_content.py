"""What a model keeps between tokens."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


def caches_only_keys_and_values(model: PreTrainedModel) -> bool:
    """Whether a model keeps the keys and values of all tokens and nothing else: no other states, no sliding window."""
    if model._is_stateful:
        return False
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=model.config).layers)
