"""Do numbers lie on a grid that nobody has told?

Blocks of numbers that were rounded to few bits lie on `low + step · k`, with another step in every block. How well a
block fits to a step is Kendall's cosine quantogram ("Hunting quanta", Phil. Trans. R. Soc. A 276, 1974): the mean of
`cos(2π · distance / step)`, which is 1 on the grid and about 0 off it. The ends of a block lie on its grid, so its step
is its range divided by 1, 2, 3, or more.

A grid whose rows and columns were multiplied by unknown factors, as rewrites do that leave a model's function alone,
keeps a trace: where two weights of a block have equal codes, their ratio is that of the two columns' factors, to the
last bits, in whatever row. Ratios of weights that were never rounded do not repeat.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["MOST_STEPS", "Fits", "best_fits", "column_factors", "repeated_ratios"]

MOST_STEPS = 255
"""Steps between the ends of a block of 8-bit codes."""
_MARGIN = 1e-9
"""Fits that differ by less are equally good: a grid of half the step holds the same numbers."""
_ULPS = 4
"""Ratios are equal if they differ by at most this many of the dtype's last bits."""


class Fits(NamedTuple):
    """The grids that fit best to some blocks.

    Attributes:
        fit: Mean cosine of the distances of the numbers between the ends of each block, in turns of its step.
        steps: Number of steps between its ends.
        miss: Largest distance of its numbers from the grid, in steps.
    """

    fit: Float[Tensor, " blocks"]
    steps: Int[Tensor, " blocks"]
    miss: Float[Tensor, " blocks"]


def best_fits(blocks: Float[Tensor, "blocks size"], most: int = MOST_STEPS) -> Fits:
    """The best grid of at most `most` steps for each block; the coarsest of equally good ones.

    Args:
        blocks: At least three numbers each that may share a grid; equal numbers fit to any.
        most: Most steps between the ends of a block.
    """
    low, high = blocks.double().aminmax(dim=1, keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    place = (blocks.double() - low) / span
    twice = 2 * (2 * torch.pi * place).cos()
    before, now = torch.ones_like(twice), twice / 2  # cos((n + 1) θ) = 2 cos θ cos nθ − cos((n − 1) θ)
    sums = torch.empty(most, len(blocks), dtype=torch.float64, device=blocks.device)
    for count in range(most):
        torch.sum(now, dim=1, out=sums[count])
        before, now = now, before.neg_().addcmul_(twice, now)
    fit = (sums - 2) / (blocks.shape[1] - 2)  # without the ends, which are on every grid
    best = fit.amax(dim=0)
    steps = 1 + (fit >= best - _MARGIN).int().argmax(dim=0)
    turns = place * steps[:, None]
    return Fits(best.float(), steps, (turns - turns.round()).abs().amax(dim=1).float())


def repeated_ratios(
    a: Float[Tensor, "pairs rows"], b: Float[Tensor, "pairs rows"], eps: float
) -> Float[Tensor, " pairs"]:
    """Share of rows whose ratio `a / b` is also that of another row, for each pair of columns; rows with a 0 are none.

    Args:
        a: Columns of a weight.
        b: Other columns, row by row beside `a`.
        eps: Machine epsilon of the weight's dtype.
    """
    usable = (a != 0) & (b != 0)
    ratio = torch.where(usable, a.double() / b.double(), torch.inf).sort(dim=1).values
    equal = ratio.diff(dim=1) <= _ULPS * eps * ratio[:, :-1].abs()  # false between infinities
    none = equal.new_zeros(len(a), 1)
    repeated = torch.cat((equal, none), dim=1) | torch.cat((none, equal), dim=1)
    return repeated.sum(dim=1) / usable.sum(dim=1).clamp(min=1)


def column_factors(block: Float[Tensor, "rows size"], eps: float) -> Float[Tensor, " size"]:
    """Factors of the columns of a block relative to its first column: the most frequent ratio of magnitudes of each.

    Args:
        block: Some rows of a few columns that share a scale in each row.
        eps: Machine epsilon of the weight's dtype.
    """
    first, wide = block[:, :1].double().abs(), block.double().abs()
    usable = (first != 0) & (wide != 0)
    ratio = torch.where(usable, wide / first, torch.inf).T.contiguous().sort(dim=1).values
    reach = torch.searchsorted(ratio, ratio * (1 + _ULPS * eps), right=True)
    alike = (reach - torch.arange(ratio.shape[1], device=ratio.device)).masked_fill_(ratio == torch.inf, 0)
    most, start = alike.max(dim=1, keepdim=True)
    factors = ratio.gather(1, start + (most - 1).clamp(min=0) // 2)[:, 0]
    return torch.where(torch.isfinite(factors), factors, torch.ones_like(factors)).float()
