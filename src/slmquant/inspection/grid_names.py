"""Names of grids: GGUF's types where the layout is one of theirs, else schemes as slmquant spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from slmquant.core.elements import IQ4_NL

__all__ = ["Layout", "name_of"]

_SYMMETRIC: Mapping[tuple[int, int], str] = MappingProxyType({(4, 32): "Q4_0", (5, 32): "Q5_0", (8, 32): "Q8_0"})
_WITH_MINIMA: Mapping[tuple[int, int], str] = MappingProxyType({(4, 32): "Q4_1", (5, 32): "Q5_1"})
_NESTED_SYMMETRIC: Mapping[tuple[int, int], str] = MappingProxyType({(3, 16): "Q3_K", (6, 16): "Q6_K"})
_NESTED_WITH_MINIMA: Mapping[tuple[int, int], str] = MappingProxyType(
    {(2, 16): "Q2_K", (4, 32): "Q4_K", (5, 32): "Q5_K"}
)
"""(bits, inputs that share a scale) → GGUF's type."""
_UNEVEN = frozenset(int(number) for number in IQ4_NL.points)


@dataclass(frozen=True)
class Layout:
    """The layout of a grid.

    Attributes:
        block: Inputs that share a scale.
        whole_row: Whether these are all of a row.
        steps: Most steps between the ends of a block.
        codes: Every code that was seen, counted from zero, if zero is on the grids; else none.
        nested: Whether the steps of 256 inputs are whole multiples of one number.
    """

    block: int
    whole_row: bool
    steps: int
    codes: frozenset[int]
    nested: bool

    @property
    def bits(self) -> int:
        """Bits that hold so many steps."""
        return max(self.steps.bit_length(), 2)

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is in the middle: codes reach as far down as up, give or take one."""
        if not self.codes:
            return False
        return max(abs(code) for code in self.codes) <= 1 << (self.bits - 1)

    @property
    def is_uneven(self) -> bool:
        """Whether the codes are numbers of IQ4_NL, in either direction, as its scales may be negative."""
        other_way = frozenset(-number for number in _UNEVEN)
        return len(self.codes) > 4 and self.codes <= _UNEVEN | other_way and self.steps > 2**6


def name_of(layout: Layout) -> str:
    """The name of a layout's type."""
    place = (layout.bits, layout.block)
    if layout.is_uneven and layout.block == 32:
        return "IQ4_XS" if layout.nested else "IQ4_NL"
    if layout.is_symmetric:
        tables = [_NESTED_SYMMETRIC, _SYMMETRIC] if layout.nested else [_SYMMETRIC]
    elif not layout.codes:
        tables = [_NESTED_WITH_MINIMA, _WITH_MINIMA] if layout.nested else [_WITH_MINIMA]
    else:
        tables = []
    for table in tables:
        if place in table:
            return table[place]
    ternary = layout.is_symmetric and layout.steps <= 2
    name = "W1.58A16" if ternary else f"W{layout.bits}A16"
    name += "" if layout.whole_row else f"g{layout.block}"
    if layout.is_symmetric:
        return name
    return f"{name}-asym" if layout.codes else f"{name} with minima"
