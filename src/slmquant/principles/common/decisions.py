"""What a principle implies for the choice of a method and a scheme, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from slmquant.schemes import PerChannel, PerGroup, Scheme
from slmquant.schemes.scheme import FULL_PRECISION_BITS
from slmquant.store.record import ModelCard

__all__ = ["ANY_BITS", "Candidates", "Decision"]

Bits = tuple[int, int]
ANY_BITS: Bits = (0, FULL_PRECISION_BITS)
"""Lowest and highest number of bits, 16 for what is not quantized."""


@dataclass(frozen=True)
class Candidates:
    """Candidates that have all of these properties; a default fits any.

    Attributes:
        methods: The method is one of these, or has one of them as a part (`a+b`).
        without: The method is none of these, and has none of them as a part.
        weights: Lowest and highest number of bits of weights.
        activations: The same for activations.
        cache: The same for the key-value cache.
        embeddings: The same for embeddings and head.
        grouped: Whether weights share scales in groups, rather than in whole rows.
        symmetric: Whether the grid of weights has no zero points.
        schemes: The scheme has one of these names.
    """

    methods: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    weights: Bits = ANY_BITS
    activations: Bits = ANY_BITS
    cache: Bits = ANY_BITS
    embeddings: Bits = ANY_BITS
    grouped: bool | None = None
    symmetric: bool | None = None
    schemes: tuple[str, ...] = ()

    def include(self, method: str, scheme: Scheme) -> bool:
        """Whether a method with a scheme is one of them."""
        parts = {method, *method.split("+")}
        numbers = scheme.weights
        if (self.methods and not parts & set(self.methods)) or parts & set(self.without):
            return False
        if self.schemes and str(scheme) not in self.schemes:
            return False
        wanted = (self.weights, self.activations, self.cache, self.embeddings)
        if not all(_within(bits, has) for bits, has in zip(wanted, _bits_of(scheme), strict=True)):
            return False
        if self.grouped is not None:
            granularity = PerGroup if self.grouped else PerChannel
            if numbers is None or not isinstance(numbers.granularity, granularity):
                return False
        return self.symmetric is None or (numbers is not None and numbers.format.symmetric == self.symmetric)

    def __str__(self) -> str:
        """In words, such as `gptq; weights in 4 bits`."""
        ranges = (
            ("weights", self.weights),
            ("activations", self.activations),
            ("cache", self.cache),
            ("embeddings", self.embeddings),
        )
        words = [", ".join(self.methods), ", ".join(self.schemes)]
        words += [f"all but {', '.join(self.without)}"] if self.without else []
        words += [f"{what} in {_range(*bits)} bits" for what, bits in ranges if bits != ANY_BITS]
        words += [] if self.grouped is None else ["in groups" if self.grouped else "a scale for each row"]
        words += [] if self.symmetric is None else ["no zero points" if self.symmetric else "zero points"]
        return "; ".join(filter(None, words)) or "all"


def _bits_of(scheme: Scheme) -> tuple[int | None, ...]:
    """Bits of weights, activations, cache and embeddings; None where a mixture gives each weight its own."""
    weights = scheme.special or (scheme.weights and scheme.weights.format)
    embeddings = None if scheme.embeddings is None else scheme.embeddings.format.bits
    return (
        None if scheme.max_bytes else weights.bits if weights else FULL_PRECISION_BITS,
        scheme.activations.bits if scheme.activations else FULL_PRECISION_BITS,
        scheme.kv.bits if scheme.kv else FULL_PRECISION_BITS,
        None if scheme.table or scheme.special or scheme.max_bytes else embeddings or FULL_PRECISION_BITS,
    )


def _within(bits: Bits, has: int | None) -> bool:
    """Whether a number of bits lies in a range; an unknown one only in that of any."""
    return bits == ANY_BITS if has is None else bits[0] <= has <= bits[1]


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Decision:
    """What to do with some candidates for a model.

    Attributes:
        action: `refuse` drops them; `prefer` tries them before others; `note` only tells.
        candidates: Which candidates.
        why: The reason, in a sentence.
        embedding_share: Lowest and highest share of the parameters in embeddings and head of models it applies to.
    """

    action: Literal["refuse", "prefer", "note"]
    candidates: Candidates
    why: str
    embedding_share: tuple[float, float] = (0.0, 1.0)

    def applies_to(self, card: ModelCard | None) -> bool:
        """Whether it is about such a model; about an unknown one only if it is about all."""
        low, high = self.embedding_share
        if card is None:
            return (low, high) == (0.0, 1.0)
        return low <= card.embedding_share <= high

    def as_json(self) -> dict[str, object]:
        """All attributes as plain values."""
        return asdict(self)
