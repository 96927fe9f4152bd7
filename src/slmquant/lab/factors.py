"""The factors that can be studied: what each may change, so that models differ in one thing."""

from __future__ import annotations

from dataclasses import dataclass

COMPENSATING = "intermediate"
"""The setting that makes parameters equal again where a factor changes their number."""
PLACEBO, ANOTHER_START = "placebo", "another_start"
"""The factor without an effect, and its level: other initial weights. Every plan has it."""
BASE = "base"
"""Factor and level of models without any change."""


@dataclass(frozen=True)
class FactorKind:
    """A factor.

    Attributes:
        settings: The settings that it may change, besides `COMPENSATING` if it is of the architecture.
        about: What it asks.
        of_training: Whether it is of the training; the architecture then stays as it is.
    """

    settings: frozenset[str]
    about: str
    of_training: bool = False

    @property
    def allowed(self) -> frozenset[str]:
        """The settings that a level may have."""
        return self.settings if self.of_training else self.settings | {COMPENSATING}


FACTORS: dict[str, FactorKind] = {
    "position": FactorKind(frozenset({"position", "yarn_factor"}), "rotary positions, none, or stretched by YaRN"),
    "key_heads": FactorKind(frozenset({"key_heads"}), "heads of keys and values: MHA, GQA, MQA"),
    "tied": FactorKind(frozenset({"tied"}), "whether embedding and head are one"),
    "qk_norm": FactorKind(frozenset({"qk_norm"}), "norms of queries and keys"),
    "norm": FactorKind(frozenset({"norm"}), "RMSNorm or LayerNorm"),
    "feed_forward": FactorKind(frozenset({"feed_forward"}), "gated or plain feed-forward network"),
    "depth": FactorKind(frozenset({"layers", "hidden", "heads", "key_heads"}), "depth against width"),
    "vocabulary": FactorKind(frozenset({"vocabulary"}), "share of the parameters in embeddings"),
    "tokens": FactorKind(frozenset({"steps"}), "training tokens for each parameter", of_training=True),
    "weight_decay": FactorKind(frozenset({"weight_decay"}), "weight decay", of_training=True),
    "schedule": FactorKind(frozenset({"schedule"}), "learning rate cooled down or constant", of_training=True),
}
"""Name → factor, without the placebo."""
