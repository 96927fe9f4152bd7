"""Hadamard matrices of orders that Paley's constructions miss, from four symmetric circulant matrices.

Williamson, "Hadamard's determinant theorem and the sum of four squares", Duke Mathematical Journal 11 (1944): symmetric
circulants `A, B, C, D` of odd order `n` with entries ±1 and `A² + B² + C² + D² = 4n·I` make one of order `4n`,

    ⎡  A  B  C  D ⎤
    ⎢ −B  A −D  C ⎥
    ⎢ −C  D  A −B ⎥
    ⎣ −D −C  B  A ⎦

The circulants below were found by search: over all first rows for `n` = 23 and 29, and for 43 over those that do not
change when positions are multiplied by 6 modulo 43, whose powers are 1, 6, 36 and their negatives.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ORDERS", "williamson"]

_FIRST_ROWS: dict[int, tuple[str, str, str, str]] = {
    23: ("--+-+-+++++", "--++-+-+-++", "++---++--++", "--+--+++---"),
    29: ("--+-++---+++++", "-+-++---+--+++", "++-++-++++---+", "-+-+----++-++-"),
    43: ("---++--++++-+-+++-++-", "+---++++-+--+--++----", "++-+-++--+-+-++++-+--", "+-++++++----+-+--++-+"),
}
"""Signs at positions 1 to (n − 1)/2 of each first row; position 0 is +, the rest mirrors them."""

ORDERS = frozenset(4 * n for n in _FIRST_ROWS)
"""Orders that can be built here."""


def williamson(order: int) -> Float[Tensor, "order order"]:
    """The ±1 matrix of one of `ORDERS`, in float64."""
    A, B, C, D = (_circulant(signs) for signs in _FIRST_ROWS[order // 4])
    rows = [(A, B, C, D), (-B, A, -D, C), (-C, D, A, -B), (-D, -C, B, A)]
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def _circulant(signs: str) -> Float[Tensor, "n n"]:
    """The symmetric circulant matrix whose first row is 1, then these signs, then their mirror."""
    half = [-1.0 if sign == "-" else 1.0 for sign in signs]
    first = torch.tensor([1.0, *half, *reversed(half)], dtype=torch.float64)
    shifts = torch.arange(len(first))
    return first[(shifts[None] - shifts[:, None]) % len(first)]
