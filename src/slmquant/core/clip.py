"""Clipping: ranges narrower than the weights' own, chosen group by group for the smallest output error.

The clip search of AWQ (Lin et al., MLSys 2024, arXiv 2306.00978) measures, over calibration tokens, the squared error
that one group of one output channel adds: `E[(Δw_g · x_g)²]`. That is exactly `Δw_g H_gg Δw_gᵀ` with `H_gg` the block
of `H = E[x xᵀ]` on the diagonal, so the tokens are not needed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.scales import AffineParams

RATIOS: tuple[float, ...] = tuple(1 - step / 20 for step in range(10))
"""Shares of the range to try, widest first: the authors' ten, from 1 down to 0.55."""


def clipped(
    W: Float[Tensor, "out in"], H: Float[Tensor, "in in"], grid: Grid, ratios: tuple[float, ...] = RATIOS
) -> AffineParams:
    """Parameters that cover, in each group, the share of its range with the smallest output error.

    Args:
        W: The weight.
        H: Mean of `x xᵀ` over the inputs.
        grid: The numbers to round to; the parameters of groups must be independent.
        ratios: Shares of the range to try; of equal errors the first wins.
    """
    size = W.shape[1]
    group_size = min(grid.group_size, size)
    low, high = groups.bounds(W, group_size)
    least = torch.full_like(low, torch.inf)
    best = torch.ones_like(low)
    for ratio in ratios:
        affine = grid.cover(groups.Bounds(low * ratio, high * ratio))
        error = W - grid.rounded(W, affine)
        loss = group_losses(error, H, group_size)
        better = loss < least
        least = torch.where(better, loss, least)
        best = torch.where(better, ratio, best)
    return grid.cover(groups.Bounds(low * best, high * best))


def group_losses(
    error: Float[Tensor, "out in"], H: Float[Tensor, "in in"], group_size: int
) -> Float[Tensor, "out groups"]:
    """`e_g H_gg e_gᵀ` for every group of every row."""
    losses, start = [], 0
    for part in groups.split(error, group_size):
        count, size = part.shape[1:]
        stop = start + count * size
        blocks = H[start:stop, start:stop].unflatten(0, (count, size)).unflatten(2, (count, size))
        diagonal = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (groups, size, size)
        by_group = part.transpose(0, 1)  # (groups, out, size)
        losses.append((torch.bmm(by_group, diagonal) * by_group).sum(dim=2).T)
        start = stop
    return torch.cat(losses, dim=1)
