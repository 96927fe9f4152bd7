"""Context length of a model."""

from __future__ import annotations

from transformers import PreTrainedConfig


def context_limit(config: PreTrainedConfig) -> int | None:
    """Longest input of a model, in tokens; None if its configuration does not say (BLOOM)."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit or None


def fitting(tokens: int, config: PreTrainedConfig) -> int:
    """`tokens`, limited to the context length of the model."""
    return min(tokens, context_limit(config) or tokens)
