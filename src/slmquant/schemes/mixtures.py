"""Mixtures of GGUF's types: one for most linears, and more bits for those that suffer most from few.

Those of K-quants are llama.cpp's: what a user gets who asks it for `Q4_K_M`, type by type, after
`llama_tensor_get_type` and what follows it in `llama-quant.cpp`, which have no paper. K-quants need rows of whole
blocks of 256. A small model seldom has them (576, 896, 960 inputs), gets types of 5 and 8 bits in their place, and
decodes more slowly, as processors have fast products for `Q4_0` and `Q8_0` and not for those of 5 bits.

`Q4_0_S` and `Q4_0_M` are ours, made for such models: nothing but `Q4_0` and `Q8_0`. Values and keys have 8 bits, which
costs little where many queries share them, and with `_M` three quarters of the feed-forward networks' last linears. On
SmolLM2-135M-Instruct a million weights of values are worth twelve times as much in 8 bits as one of queries, one of
keys four times, one of those last linears three (`benchmarks/mixture.py`).

Deviations:
    * Mixtures of the Falcon architecture, of models with eight experts and of those with 80 blocks have rules of
      their own there, which are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from slmquant.schemes.numbers import GgufName

MixtureName = Literal["Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q4_0_S", "Q4_0_M"]
"""The mixtures that can be made."""

Role = Literal["value", "key", "down", "head", "other"]
"""What a weight is to a mixture: the values' projection (or one of queries, keys and values together), the keys', the
last of a feed-forward network, the head (and an embedding that is one), anything else."""

ROW = 256
"""Inputs of a K-quant's super-block; rows that are no multiple of it get another type."""

_STAND_INS: Mapping[GgufName, GgufName] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def _at_an_end(block: int, blocks: int) -> bool:
    """The first and last eighth of the blocks."""
    return block < blocks // 8 or block >= 7 * blocks // 8


def _some(block: int, blocks: int) -> bool:
    """The first and last eighth of the blocks, and every third between."""
    return _at_an_end(block, blocks) or (block - blocks // 8) % 3 == 2


def _most(block: int, blocks: int) -> bool:
    """All but every third of the blocks between the first and the last eighth."""
    return _at_an_end(block, blocks) or (block - blocks // 8) % 3 != 0


@dataclass(frozen=True)
class _Favour:
    """Weights of a role get another type, in some blocks.

    Attributes:
        type: Which.
        where: Whether in this block of so many.
    """

    type: GgufName
    where: Callable[[int, int], bool] = lambda _block, _blocks: True


@dataclass(frozen=True)
class Mixture:
    """One of GGUF's mixtures.

    Attributes:
        base: The type of every weight that nothing is said of.
        favoured: What roles have instead.
        of_llama_cpp: Whether llama.cpp's own quantizer makes it, under the same name.
    """

    base: GgufName
    favoured: Mapping[Role, _Favour]
    of_llama_cpp: bool = True

    def type_of(self, role: Role, row: int, block: int = 0, blocks: int = 1) -> GgufName:
        """The type of a weight with rows of `row` inputs, in block number `block` of `blocks` where it lies in one."""
        favour = self.favoured.get(role)
        chosen = favour.type if favour is not None and favour.where(block, blocks) else self.base
        return _STAND_INS.get(chosen, chosen) if row % ROW else chosen

    @property
    def types(self) -> tuple[GgufName, ...]:
        """Every type that may occur."""
        chosen = dict.fromkeys((self.base, *(favour.type for favour in self.favoured.values())))
        return (*chosen, *(_STAND_INS[name] for name in chosen if name in _STAND_INS))


_HEAD = _Favour("Q6_K")
_SOME = _Favour("Q6_K", _some)
_EIGHT = _Favour("Q8_0")
_FIRST_FOUR = _Favour("Q5_K", lambda block, _: block < 4)
_FIRST_EIGHTH = _Favour("Q5_K", lambda block, blocks: block < blocks // 8)

MIXTURES: Mapping[MixtureName, Mixture] = MappingProxyType(
    {
        "Q4_K_S": Mixture("Q4_K", {"value": _FIRST_FOUR, "down": _FIRST_EIGHTH, "head": _HEAD}),
        "Q4_K_M": Mixture("Q4_K", {"value": _SOME, "down": _SOME, "head": _HEAD}),
        "Q4_0_S": Mixture("Q4_0", {"value": _EIGHT, "key": _EIGHT, "head": _EIGHT}, of_llama_cpp=False),
        "Q4_0_M": Mixture(
            "Q4_0", {"value": _EIGHT, "key": _EIGHT, "down": _Favour("Q8_0", _most), "head": _EIGHT}, of_llama_cpp=False
        ),
        "Q5_K_S": Mixture("Q5_K", {"head": _HEAD}),
        "Q5_K_M": Mixture("Q5_K", {"value": _SOME, "down": _SOME, "head": _HEAD}),
    }
)
