"""Element sets: the numbers that a code can stand for before scaling.

Integers are their own codes, and so are the numbers of codebooks (`core.codebooks`). Every other set is a table of at
most 256 numbers, and a code is an index into it.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from slmquant.core.codebooks import CODEBOOKS
from slmquant.core.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2
from slmquant.core.pack import pack, pack_ternary, packed_bytes, ternary_bytes, unpack, unpack_ternary


@runtime_checkable
class Elements(Protocol):
    """The numbers of a grid."""

    @property
    def name(self) -> str:
        """Name of the set; `by_name(name)` returns the same set."""
        ...

    @property
    def bits(self) -> int:
        """Bits of one code, unpacked."""
        ...

    @property
    def signed(self) -> bool:
        """Whether codes can be negative."""
        ...

    @property
    def low(self) -> float:
        """The smallest number."""
        ...

    @property
    def high(self) -> float:
        """The largest number."""
        ...

    @property
    def has_zero(self) -> bool:
        """Whether 0 is one of the numbers."""
        ...

    @property
    def block(self) -> int:
        """Consecutive codes of a row that are chosen together; 1 but for codebooks."""
        ...

    def nearest(self, x: Tensor) -> Tensor:
        """Code of the nearest number, held as a float; numbers beyond the ends are clamped to them."""
        ...

    def nearest_number(self, x: Tensor) -> Tensor:
        """The nearest number itself: `values(nearest(x))`."""
        ...

    def values(self, codes: Tensor) -> Tensor:
        """Numbers of codes held as floats."""
        ...

    def pack(self, codes: Shaped[Tensor, "rows size"]) -> UInt8[Tensor, "rows bytes"]:
        """Pack codes for storage; each row starts at a new byte."""
        ...

    def unpack(self, packed: UInt8[Tensor, "rows bytes"], size: int) -> Shaped[Tensor, "rows size"]:
        """Undo `pack`: int8 codes if signed, else uint8."""
        ...

    def row_bytes(self, size: int) -> int:
        """Bytes of a packed row of `size` codes."""
        ...


@dataclass(frozen=True)
class Integers:
    """All whole numbers from `low` to `high`, each its own code.

    Ternary codes (−1, 0 and 1) are packed five to a byte, `3⁵ = 243`: 1.6 bits each.
    """

    low: int
    high: int
    block = 1

    @classmethod
    def of(cls, bits: int, symmetric: bool) -> Integers:
        """All integers of `bits` bits: centred on 0 if symmetric, else starting at 0."""
        return cls(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else cls(0, 2**bits - 1)

    @property
    def name(self) -> str:
        """`integers -8..7`."""
        return f"integers {self.low}..{self.high}"

    @property
    def bits(self) -> int:
        """Bits of one unpacked code, in two's complement if signed."""
        return max(self.high.bit_length(), (-self.low - 1).bit_length() if self.signed else 0) + self.signed

    @property
    def signed(self) -> bool:
        """Whether codes can be negative."""
        return self.low < 0

    @property
    def has_zero(self) -> bool:
        """Whether 0 lies in the range."""
        return self.low <= 0 <= self.high

    def nearest(self, x: Tensor) -> Tensor:
        """Round half to even, and clamp."""
        return x.round().clamp_(self.low, self.high)

    def nearest_number(self, x: Tensor) -> Tensor:
        """As `nearest`: a code is its own number."""
        return self.nearest(x)

    def values(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def pack(self, codes: Shaped[Tensor, "rows size"]) -> UInt8[Tensor, "rows bytes"]:
        """Pack codes for storage."""
        return pack_ternary(codes) if self._ternary else pack(codes, self.bits)

    def unpack(self, packed: UInt8[Tensor, "rows bytes"], size: int) -> Shaped[Tensor, "rows size"]:
        """Undo `pack`."""
        return unpack_ternary(packed, size) if self._ternary else unpack(packed, self.bits, size, self.signed)

    def row_bytes(self, size: int) -> int:
        """Bytes of a packed row of `size` codes."""
        return ternary_bytes(size) if self._ternary else packed_bytes(size, self.bits)

    @property
    def _ternary(self) -> bool:
        return (self.low, self.high) == (-1, 1)


@dataclass(frozen=True)
class Table:
    """A table of numbers indexed by code: bit patterns of a small float, or quantiles.

    Attributes:
        name: Its key in `TABLES`.
        points: The number of each code, NaN for codes without one; the length is a power of two.
        native: The 8-bit dtype of torch whose bit patterns are the codes; None if there is none.
    """

    name: str
    points: tuple[float, ...]
    native: torch.dtype | None = None
    block = 1

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (len(self.points) - 1).bit_length()

    @property
    def signed(self) -> bool:
        """False: codes are indices from 0."""
        return False

    @functools.cached_property
    def low(self) -> float:
        """The smallest number."""
        return min(point for point in self.points if point == point)

    @functools.cached_property
    def high(self) -> float:
        """The largest number."""
        return max(point for point in self.points if point == point)

    @property
    def has_zero(self) -> bool:
        """Whether 0 is in the table."""
        return 0.0 in self.points

    def nearest(self, x: Tensor) -> Tensor:
        """Code of the nearest number; ties go to the even code, as in IEEE 754."""
        if self.native is not None:
            return x.clamp(self.low, self.high).to(self.native).view(torch.uint8).to(x.dtype)
        x = x if x.dtype == torch.float64 else x.float()
        lookup = _lookup(self, x.dtype, x.device)
        return lookup.codes.index_select(0, lookup.rank(x).flatten()).view(x.shape)

    def nearest_number(self, x: Tensor) -> Tensor:
        """The nearest number, found without its code."""
        if self.native is not None:
            return self.values(self.nearest(x))
        x = x if x.dtype == torch.float64 else x.float()
        lookup = _lookup(self, x.dtype, x.device)
        return lookup.numbers.index_select(0, lookup.rank(x).flatten()).view(x.shape)

    def values(self, codes: Tensor) -> Tensor:
        """Numbers of codes."""
        dtype = codes.dtype if codes.is_floating_point() else torch.float32
        return _lookup(self, dtype, codes.device).points[codes.long()]

    def pack(self, codes: Shaped[Tensor, "rows size"]) -> UInt8[Tensor, "rows bytes"]:
        """Pack codes for storage."""
        return pack(codes, self.bits)

    def unpack(self, packed: UInt8[Tensor, "rows bytes"], size: int) -> Shaped[Tensor, "rows size"]:
        """Undo `pack`."""
        return unpack(packed, self.bits, size, signed=False)

    def row_bytes(self, size: int) -> int:
        """Bytes of a packed row of `size` codes."""
        return packed_bytes(size, self.bits)


@dataclass(frozen=True)
class _Lookup:
    """A table's numbers in ascending order, and how to find the nearest.

    The range is divided into equal cells, each with at most one threshold: one look finds the rank at a cell's lower
    end, and one comparison the rank itself, in a fraction of the time of a search by halves.

    Attributes:
        numbers: The numbers, ascending.
        codes: Their codes.
        points: The number of each code.
        thresholds: Where the nearest number changes, then infinity.
        ranks: Rank of the nearest number at the lower end of each cell.
        start: Where the first cell begins.
        density: Cells per unit.
    """

    numbers: Tensor
    codes: Tensor
    points: Tensor
    thresholds: Tensor
    ranks: Tensor
    start: float
    density: float

    def rank(self, x: Tensor) -> Tensor:
        """Rank of the nearest number; a number equal to a threshold belongs below it."""
        cells = ((x - self.start) * self.density).clamp_(0, len(self.ranks) - 1).nan_to_num_(0.0).to(torch.int32)
        ranks = self.ranks.index_select(0, cells.flatten())
        return (ranks + (x.flatten() > self.thresholds.index_select(0, ranks))).view(x.shape)


@functools.lru_cache(maxsize=64)
def _lookup(table: Table, dtype: torch.dtype, device: torch.device) -> _Lookup:
    """The lookup of a table in a dtype."""
    ascending: list[tuple[float, int]] = []
    for point, code in sorted((point, code) for code, point in enumerate(table.points) if point == point):
        if not ascending or ascending[-1][0] != point:  # of +0 and −0, the first is kept
            ascending.append((point, code))
    middles = [(low[0] + high[0]) / 2 for low, high in itertools.pairwise(ascending)]
    thresholds = torch.tensor(middles, dtype=dtype)
    upward = torch.tensor([code % 2 == 0 for _, code in ascending[1:]])
    below = torch.nextafter(thresholds, torch.full_like(thresholds, -torch.inf))
    thresholds = torch.where(upward, below, thresholds)  # a number equal to a threshold belongs below it
    density = 4 / float(thresholds.diff().min())
    start = float(thresholds[0]) - 1 / density
    # Tables of a dtype of torch are never searched.
    count = 0 if table.native is not None else int((float(thresholds[-1]) - start) * density) + 2
    # Half a cell of room on both sides covers the rounding of a cell's number.
    edges = start + (torch.arange(count, dtype=torch.float64) - 0.5) / density
    ranks = torch.bucketize(edges, thresholds.double())
    return _Lookup(
        numbers=torch.tensor([point for point, _ in ascending], dtype=dtype, device=device),
        codes=torch.tensor([code for _, code in ascending], dtype=dtype, device=device),
        points=torch.tensor(table.points, dtype=dtype, device=device),
        thresholds=torch.cat([thresholds, thresholds.new_tensor([torch.inf])]).to(device),
        ranks=ranks.to(torch.int32).to(device),
        start=start,
        density=density,
    )


def normal_quantiles() -> tuple[float, ...]:
    """The 16 numbers of NF4: each stands for an equal share of a normal distribution; they include 0 and ±1.

    Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (NeurIPS 2023, arXiv 2305.14314), section 3 and
    appendix E. Eight quantiles above the middle and seven below it are taken at equal steps of probability and divided
    by the largest. The outermost lies at `1 − (1/32 + 1/30)/2`, halfway between the offsets of 16 and of 15 levels, so
    that it is not infinite.
    """
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    above = normal.icdf(torch.linspace(0.5, outermost, 9, dtype=torch.float64)[1:])
    below = -normal.icdf(torch.linspace(0.5, outermost, 8, dtype=torch.float64)[1:]).flip(0)
    levels = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]) / above[-1]
    return tuple(levels.float().tolist())


TERNARY = Integers(-1, 1)
IQ4_NL = Table("IQ4_NL", (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))
"""The uneven 4-bit levels of ggml (`kvalues_iq4nl`), which are denser near zero; the scale may be negative."""
NF4 = Table("NF4", normal_quantiles())
TABLES = {"NF4": NF4, "IQ4_NL": IQ4_NL} | {
    small.name: Table(small.name, small.values(), small.native) for small in (E4M3, E5M2, E3M2, E2M3, E2M1)
}
"""Every table by name; tables of small floats are in the order of their bit patterns."""


def by_name(name: str) -> Elements:
    """The element set of that name.

    Raises:
        ValueError: There is no such set.
    """
    if match := re.fullmatch(r"integers (-?\d+)\.\.(\d+)", name):
        return Integers(int(match[1]), int(match[2]))
    if name in TABLES:
        return TABLES[name]
    if name in CODEBOOKS:
        return CODEBOOKS[name]
    known = ", ".join((*TABLES, *CODEBOOKS))
    raise ValueError(f"no element set is called {name!r}; expected 'integers -8..7' or one of {known}")
