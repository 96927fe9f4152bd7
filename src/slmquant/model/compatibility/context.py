"""How many tokens a model takes."""

from __future__ import annotations

from transformers import PreTrainedConfig


def context_limit(config: PreTrainedConfig) -> int | None:
    """The longest input that a model was made for, in tokens; None where its configuration does not say (BLOOM)."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit or None


def fitting(tokens: int, config: PreTrainedConfig) -> int:
    """As many of `tokens` as the model takes."""
    return min(tokens, context_limit(config) or tokens)
