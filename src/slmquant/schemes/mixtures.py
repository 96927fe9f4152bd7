"""Mixtures of GGUF's types: one type for most linears, and more bits for the most sensitive ones.

The mixtures of K-quants give every weight the type that llama.cpp gives it for a name such as `Q4_K_M`, after
`llama_tensor_get_type` and the code that follows it in `llama-quant.cpp`; there is no paper. K-quants need rows of
whole blocks of 256 inputs. A small model seldom has such rows (576, 896, 960 inputs). It gets types of 5 and 8 bits
instead, and decodes more slowly, because processors have fast products for `Q4_0` and `Q8_0` but not for 5-bit types.

`Q4_0_S` and `Q4_0_M` are slmquant's own, made for such models: they use only `Q4_0` and `Q8_0`. Values and keys have
8 bits, which costs little if many queries share them; `_M` also gives 8 bits to three quarters of the feed-forward
networks' last linears. On SmolLM2-135M-Instruct 8 bits for a million weights gain twelve times as much for values, four
times as much for keys, and three times as much for those last linears as they gain for queries
(`benchmarks/mixture.py`).

Deviations:
    * llama.cpp has special rules for the Falcon architecture, for models with eight experts and for models with
      80 blocks; they are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from slmquant.schemes.numbers import GgufName

MixtureName = Literal["Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q4_0_S", "Q4_0_M"]
"""Names of the supported mixtures."""

Role = Literal["value", "key", "down", "head", "other"]
"""Role of a weight in a mixture: the projection of values (or of queries, keys and values together), the projection of
keys, the last linear of a feed-forward network, the head (or an embedding tied to it), anything else."""

ROW = 256
"""Inputs of a K-quant's super-block; rows that are not a multiple of it get another type."""

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
    """Another type for the weights of a role, in some blocks.

    Attributes:
        type: The type.
        where: Whether it applies, given the block's number and the number of blocks.
    """

    type: GgufName
    where: Callable[[int, int], bool] = lambda _block, _blocks: True


@dataclass(frozen=True)
class Mixture:
    """One of GGUF's mixtures.

    Attributes:
        base: The type of every weight whose role is not in `favoured`.
        favoured: Types of particular roles.
        of_llama_cpp: Whether llama.cpp's own quantizer offers the mixture, under the same name.
    """

    base: GgufName
    favoured: Mapping[Role, _Favour]
    of_llama_cpp: bool = True

    def type_of(self, role: Role, row: int, block: int = 0, blocks: int = 1) -> GgufName:
        """The type of a weight with `row` inputs; `block` is its block's number if it lies in one of the `blocks`."""
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
