"""Number format of the key-value cache, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass

from slmquant.errors import SchemeError

__all__ = ["KIVI_GROUP", "KIVI_RECENT", "KvSpec"]

KIVI_GROUP = 32
"""Group size in KIVI's published setting: tokens for keys, channels of a head for values."""
KIVI_RECENT = 128
"""Number of latest tokens kept in full precision in KIVI's published setting."""


@dataclass(frozen=True)
class KvSpec:
    """Number format of keys and values, applied after the rotary embedding: asymmetric integers or FP8.

    Attributes:
        bits: 2 to 8 for integers, 8 for FP8.
        floating: FP8 E4M3 with a scale instead of integers with a scale and a minimum.
        key_tokens: Consecutive tokens whose keys share a scale in each channel (KIVI); None rounds keys token by
            token, like values.
        group_size: Consecutive channels of a head that share a scale within a token; None for the whole head.
        recent: Latest tokens that stay in 16 bits (KIVI): the last `recent` values, and the keys since the last
            multiple of `recent` tokens. 0 rounds every token.
    """

    bits: int
    floating: bool = False
    key_tokens: int | None = None
    group_size: int | None = None
    recent: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise SchemeError(f"a {self.bits}-bit KV cache is not supported; expected KV2 to KV8, or none for 16 bits")
        if self.floating and (self.bits != 8 or self.key_tokens is not None):
            raise SchemeError("a floating-point KV cache is FP8, one scale per token and head; use KVFP8")
        for what, size in (("tokens", self.key_tokens), ("channels", self.group_size)):
            if size is not None and size < 2:
                raise SchemeError(f"a KV cache in groups of {size} {what} is not supported; expected at least 2")
        if self.recent < 0 or self.recent % (self.key_tokens or 1):
            raise SchemeError(
                f"{self.recent} recent tokens in full precision are not supported with keys in groups of "
                f"{self.key_tokens}; expected a multiple of the group"
            )

    @classmethod
    def kivi(cls, bits: int) -> KvSpec:
        """KIVI's setting: keys per channel over groups of tokens, values per token, the latest tokens in 16 bits."""
        return cls(bits, key_tokens=KIVI_GROUP, group_size=KIVI_GROUP, recent=KIVI_RECENT)
