"""Codebooks: numbers that are chosen several at a time, as vectors with a sign for each number.

ggml's types IQ3_S, IQ3_XXS and IQ2_S (`ggml-common.h` of llama.cpp, which has no paper) take the magnitudes of 4 or 8
consecutive weights from a list of vectors that are near where such magnitudes lie, as QuIP# does with the E8 lattice
(Tseng et al., ICML 2024, arXiv 2402.04396). A code is the signed number itself; packed, a vector takes the bits of its
place in the list and of its signs. The lists are those of the `gguf` package.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from slmquant.core.pack import pack, packed_bytes, unpack

_CACHED_ELEMENTS = 1 << 18
"""Distances that are computed together: few enough to stay in the processor's cache."""

_PARTS = 8
"""Parts of a list whose best vectors are compared; more of them gain half a per cent of the error at most."""


class Fields(NamedTuple):
    """Packed codes: the low eight bits of places in the list, the bits above them, and signs, each row by row."""

    low: UInt8[Tensor, "rows _"]
    high: UInt8[Tensor, "rows _"]
    signs: UInt8[Tensor, "rows _"]


@dataclass(frozen=True)
class Codebook:
    """A list of vectors of magnitudes.

    Attributes:
        name: ggml's name of the type.
        length: Numbers of a vector, 4 or 8.
        even: Whether eight consecutive codes have an even number of minus signs, of which then seven are stored.
    """

    name: str
    length: int
    even: bool = False
    signed = True
    has_zero = False

    @property
    def block(self) -> int:
        """Consecutive codes that are chosen together."""
        return _OCTET if self.even else self.length

    @property
    def bits(self) -> int:
        """Bits of a signed number."""
        return int(self.high).bit_length() + 1

    @property
    def low(self) -> float:
        """The smallest number."""
        return -self.high

    @functools.cached_property
    def high(self) -> float:
        """The largest number."""
        return float(_listed(self.name, _CPU).points.max())

    def nearest(self, x: Shaped[Tensor, "*rows size"]) -> Shaped[Tensor, "*rows size"]:
        """The codes with the least squared error of each block of the last axis, which holds whole blocks.

        Raises:
            ValueError: It does not.
        """
        self.check(x.shape[-1])
        one = torch.eye(self.block, dtype=x.dtype, device=x.device)
        blocks = x.reshape(-1, self.block).split(self._rows)
        return torch.cat([_best(part, self._likely(part, one.diagonal(), 1), one) for part in blocks]).view(x.shape)

    def nearest_number(self, x: Shaped[Tensor, "*rows size"]) -> Shaped[Tensor, "*rows size"]:
        """As `nearest`: a code is its own number."""
        return self.nearest(x)

    def closest(
        self, x: Float[Tensor, "rows block"], spread: Float[Tensor, "block block"]
    ) -> Float[Tensor, "rows block"]:
        """The codes `c` with a small `|(x − c) spread|²`: the least of some that are likely.

        They are the best ones of each part of the list if errors of different numbers were independent, with weights
        from the diagonal of `M = spread · spreadᵀ`; and the best ones again with `x` moved to where the errors of the
        numbers beside each pull it, `c + (x − c) M / weights`.
        """
        metric = spread @ spread.T
        weights = metric.diagonal()
        found = []
        for part in x.split(self._rows):
            best = _best(part, self._likely(part, weights, _PARTS), spread)
            again = self._likely(best + (part - best) @ metric / weights, weights, _PARTS)
            found.append(_best(part, torch.cat([best[:, None], again], dim=1), spread))
        return torch.cat(found)

    def _likely(
        self, x: Float[Tensor, "rows block"], weights: Float[Tensor, " block"], parts: int
    ) -> Float[Tensor, "rows count block"]:
        """Codes with a small `Σ weights · (x − c)²`, the best of all among them."""
        points = _listed(self.name, x.device).points.to(x.dtype)
        return (_paired if self.even else _free)(x, weights, points, parts)

    @property
    def _rows(self) -> int:
        """Blocks whose distances from all vectors are computed together."""
        return max(1, _CACHED_ELEMENTS // len(_listed(self.name, _CPU).points))

    def values(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def fields(self, codes: Shaped[Tensor, "rows size"]) -> Fields:
        """Pack codes, each field by itself.

        Raises:
            ValueError: They are not whole vectors of the list, or their signs are not even.
        """
        self.check(codes.shape[1])
        listed, negative = _listed(self.name, codes.device), codes < 0
        places = listed.places(codes)
        if (places < 0).any():
            raise ValueError(f"the codes are no vectors of {self.name}")
        if self.even:
            octets = negative.view(len(codes), -1, _OCTET)
            if (octets.sum(dim=2) % 2).any():
                raise ValueError(f"{self.name} stores an even number of minus signs in every {_OCTET} codes")
            negative = octets[:, :, :-1].flatten(1)
        high = pack(places >> 8, listed.high_bits) if listed.high_bits else places.new_empty(len(codes), 0).byte()
        return Fields((places & 0xFF).to(torch.uint8), high, pack(negative, 1))

    def pack(self, codes: Shaped[Tensor, "rows size"]) -> UInt8[Tensor, "rows bytes"]:
        """Pack codes for storage: the fields, one after the other.

        Raises:
            ValueError: As for `fields`.
        """
        return torch.cat(self.fields(codes), dim=1)

    def unpack(self, packed: UInt8[Tensor, "rows bytes"], size: int) -> Shaped[Tensor, "rows size"]:
        """Undo `pack`: int8 codes.

        Raises:
            ValueError: The row length does not match `size` codes.
        """
        self.check(size)
        if packed.shape[1] != self.row_bytes(size):
            raise ValueError(f"{packed.shape[1]} bytes a row cannot hold {size} codes of {self.name}")
        listed, vectors = _listed(self.name, packed.device), size // self.length
        low, high, signs = packed.split(self._sizes(size), dim=1)
        places = low.int()
        if listed.high_bits:
            places = places | unpack(high, listed.high_bits, vectors, signed=False).int() << 8
        negative = unpack(signs, 1, self._signs(size), signed=False)
        if self.even:
            octets = negative.view(len(packed), -1, _OCTET - 1)
            negative = torch.cat([octets, octets.sum(dim=2, keepdim=True).to(torch.uint8) % 2], dim=2).flatten(1)
        numbers = listed.points[places.flatten()].view(len(packed), size).to(torch.int8)
        return torch.where(negative.bool(), -numbers, numbers)

    def row_bytes(self, size: int) -> int:
        """Bytes of a packed row of `size` codes."""
        return sum(self._sizes(size))

    def check(self, size: int) -> None:
        """Check that rows of `size` hold whole blocks.

        Raises:
            ValueError: They do not.
        """
        if size % self.block:
            raise ValueError(f"{self.name} chooses {self.block} codes at a time; rows of {size} are no multiple of it")

    def _sizes(self, size: int) -> list[int]:
        vectors = -(-size // self.length)
        return [vectors, packed_bytes(vectors, _listed(self.name, _CPU).high_bits), packed_bytes(self._signs(size), 1)]

    def _signs(self, size: int) -> int:
        """Stored signs of a row."""
        return size - size // _OCTET if self.even else size


@dataclass(frozen=True)
class _Listed:
    """A list of vectors, and their places by their magnitudes.

    Attributes:
        points: The vectors, in ggml's order.
        ranks: Rank of each magnitude among those that occur.
        combinations: Place of each vector by the ranks of its magnitudes, read as digits of a number.
    """

    points: Float[Tensor, "vectors length"]
    ranks: Int[Tensor, " magnitudes"]
    combinations: Int[Tensor, " combinations"]

    @property
    def high_bits(self) -> int:
        """Bits of a place beyond the first eight."""
        return (len(self.points) - 1).bit_length() - 8

    def places(self, codes: Shaped[Tensor, "rows size"]) -> Int[Tensor, "rows vectors"]:
        """Place of each vector, −1 if it is not in the list."""
        magnitudes = codes.abs().long().unflatten(1, (-1, self.points.shape[1]))
        places = self.combinations[_number(self.ranks[magnitudes.clamp(max=len(self.ranks) - 1)], self.ranks)]
        return torch.where((self.points[places] == magnitudes).all(dim=2), places, -1)


def _number(digits: Int[Tensor, "*shape length"], ranks: Int[Tensor, " magnitudes"]) -> Int[Tensor, "*shape"]:
    """Ranks read as digits of a number."""
    base = int(ranks.max()) + 1
    return (digits * base ** torch.arange(digits.shape[-1], device=digits.device)).sum(dim=-1)


@functools.cache
def _listed(name: str, device: torch.device) -> _Listed:
    from gguf import quants  # takes a moment, and few need it

    ggml = getattr(quants, name)
    ggml.init_grid()
    points = torch.from_numpy(ggml.grid.copy()).view(ggml.grid_shape)
    magnitudes, inverse = points.unique(return_inverse=True)
    ranks = torch.zeros(int(magnitudes.max()) + 1, dtype=torch.long)
    ranks[magnitudes.long()] = torch.arange(len(magnitudes))
    combinations = torch.zeros(len(magnitudes) ** points.shape[1], dtype=torch.long)
    combinations[_number(inverse, ranks)] = torch.arange(len(points))
    return _Listed(points.to(device), ranks.to(device), combinations.to(device))


def _best(
    x: Float[Tensor, "rows block"], tried: Float[Tensor, "rows count block"], spread: Float[Tensor, "block block"]
) -> Float[Tensor, "rows block"]:
    """Of the codes that are tried, those with the least `|(x − c) spread|²`."""
    costs = ((x[:, None] - tried) @ spread).square().sum(dim=2)
    return tried[torch.arange(len(x), device=x.device), costs.argmin(dim=1)]


def _free(x: Tensor, weights: Tensor, points: Tensor, parts: int) -> Float[Tensor, "rows parts block"]:
    """The best vector of each part of the list, with the signs of `x`."""
    points = _interleaved(points, parts)
    best = _least(_costs(x, weights, points), parts)
    return points[best].copysign(x[:, None])


def _paired(x: Tensor, weights: Tensor, points: Tensor, parts: int) -> Float[Tensor, "rows pairs block"]:
    """The best pairs of vectors whose signs together are even: of both halves or of neither, one sign is turned.

    If `x` has an odd number of minus signs, one is turned in exactly one half. Of each half two vectors are taken with
    its signs, and two with one turned (one each, if the list is not parted).
    """
    halves = zip(x.chunk(2, 1), weights.chunk(2), strict=True)
    first, second = (_of_both_parities(half, some, points, min(parts, 2)) for half, some in halves)
    odd = ((x < 0).sum(dim=1) % 2).bool()
    second = torch.where(odd[:, None, None, None], second.flip(1), second)
    return torch.cat(torch.broadcast_tensors(first[:, :, :, None], second[:, :, None]), dim=-1).flatten(1, 3)


def _of_both_parities(x: Tensor, weights: Tensor, points: Tensor, parts: int) -> Float[Tensor, "rows 2 parts length"]:
    """The best vectors of each part with the signs of `x`, and the best with one sign turned."""
    points, pull = _interleaved(points, parts), weights * x.abs()
    plain = _costs(x, weights, points)
    turning = pull[:, 0, None] * points[:, 0]
    for place in range(1, points.shape[1]):
        turning = torch.minimum(turning, pull[:, place, None] * points[:, place])
    best = torch.stack([_least(costs, parts) for costs in (plain, plain.add(turning, alpha=4))], dim=1)
    codes = points[best].copysign(x[:, None, None])
    cheapest = (pull[:, None] * codes[:, 1].abs()).argmin(dim=2, keepdim=True)
    codes[:, 1] *= torch.ones_like(codes[:, 1]).scatter_(2, cheapest, -1.0)
    return codes


def _interleaved(points: Float[Tensor, "vectors length"], parts: int) -> Float[Tensor, "vectors length"]:
    """The list in parts, each with every so many-th vector: what is near each other in the list falls into many."""
    parted: Tensor = points.unflatten(0, (-1, parts)).transpose(0, 1).flatten(0, 1)
    return parted


def _least(costs: Float[Tensor, "rows vectors"], parts: int) -> Int[Tensor, "rows parts"]:
    """Place of the least cost in each part."""
    best: Tensor = costs.unflatten(1, (parts, -1)).argmin(dim=2)
    return best + torch.arange(0, costs.shape[1], costs.shape[1] // parts, device=costs.device)


def _costs(x: Tensor, weights: Tensor, points: Tensor) -> Float[Tensor, "rows vectors"]:
    """`Σ weights · (|x| − p)²` of every vector, less a number that is the same for all."""
    return torch.addmm(points.square() @ weights, x.abs() * weights, points.T, alpha=-2)


_OCTET = 8
_CPU = torch.device("cpu")
CODEBOOKS = MappingProxyType(
    {book.name: book for book in (Codebook("IQ3_S", 4), Codebook("IQ3_XXS", 4, even=True), Codebook("IQ2_S", 8))}
)
"""Every codebook by name."""
