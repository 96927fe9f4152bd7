"""The search for scales in the code of GPTQ's authors (`--mse`), also in QuaRot's and SpinQuant's (`--w_clip`).

The range of each group is shrunk in steps of a hundredth, down to about a fifth, and the range with the smallest
rounding error `Σ |w − ŵ|^2.4` is kept. All weights count equally, whatever their inputs. AWQ's search, which takes the
inputs into account, is `core.clip`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.scales import AffineParams

RATIOS: tuple[float, ...] = tuple(1 - step / 100 for step in range(80))
"""Shares of the range to try, widest first: the authors' 80 (`grid` 100, `maxshrink` 0.8)."""

_POWER = 2.4
_CACHED_ELEMENTS = 1 << 16


def shrunk(W: Float[Tensor, "out in"], grid: Grid, ratios: tuple[float, ...] = RATIOS) -> AffineParams:
    """Parameters that cover, in each group, the share of its range with the smallest rounding error.

    If the parameters of a group depend on more than its range, those of `grid.fit` are returned.

    Args:
        W: The weight.
        grid: The numbers to round to.
        ratios: Shares of the range to try; of equal errors the first wins.
    """
    if grid.spans_groups:
        return grid.fit(W)
    rows = max(1, _CACHED_ELEMENTS // W.shape[1])
    return grid.cover(_stacked([_shrunk_bounds(part, grid, ratios) for part in W.split(rows)]))


def _shrunk_bounds(W: Float[Tensor, "rows in"], grid: Grid, ratios: tuple[float, ...]) -> groups.Bounds:
    size = min(grid.group_size, W.shape[1])
    low, high = groups.bounds(W, size)
    least, best = torch.full_like(low, torch.inf), torch.ones_like(low)
    for ratio in ratios:
        error = W - grid.rounded(W, grid.cover(groups.Bounds(low * ratio, high * ratio)))
        parts = groups.split(error.abs_().pow_(_POWER), size)
        loss = torch.cat([part.sum(dim=2) for part in parts], dim=1)
        better = loss < least
        least, best = torch.where(better, loss, least), torch.where(better, ratio, best)
    return groups.Bounds(low * best, high * best)


def _stacked(parts: list[groups.Bounds]) -> groups.Bounds:
    return groups.Bounds(*(torch.cat(values) for values in zip(*parts, strict=True)))
