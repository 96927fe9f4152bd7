"""GPTQ: rounding one input column at a time, spreading each error over the columns not yet rounded.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023,
arXiv 2210.17323), algorithm 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.codebooks import Codebook
from slmquant.core.hessian import inverse_cholesky
from slmquant.core.kquant import search
from slmquant.core.scales import AffineParams
from slmquant.core.shrink import shrunk
from slmquant.core.vector_feedback import round_vectors

Scales = Literal["range", "mse", "loss"]
"""Rule for scales: `range` covers the range of each group, as in the paper; `mse` covers the share of the range with
the smallest rounding error, as in the authors' code (`core.shrink`); `loss` minimises the loss that GPTQ leaves, see
`scales_of_least_loss`."""

_BLOCK = 128
"""Columns whose updates are collected before the rest of the matrix is updated; affects speed, not the result."""

_PANEL = 32
"""Columns whose updates are collected before the rest of the block is updated; affects speed, not the result."""


class Factors(NamedTuple):
    """What GPTQ needs of a Hessian, for any number of weights and grids.

    Attributes:
        order: The order in which columns are rounded.
        U: Effect of an error on the columns that follow, in this order; see `round_columns`.
        idle: Columns whose input was always 0.
    """

    order: Int[Tensor, " in"]
    U: Float[Tensor, "in in"]
    idle: Bool[Tensor, " in"]


def factors(H: Float[Tensor, "in in"], *, damp: float = 0.01, act_order: bool = False, block: int = 1) -> Factors:
    """Factorise a Hessian; arguments as for `gptq` and `column_order`.

    Raises:
        NumericalError: `H` is not finite or cannot be factorised.
    """
    order = column_order(H, H, act_order, block)
    return Factors(order, inverse_cholesky(H[order][:, order], damp).float(), H.diagonal() == 0)


def gptq(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"] | Factors,
    grid: Grid,
    *,
    damp: float = 0.01,
    act_order: bool = False,
    scales: Scales = "range",
) -> QuantizedTensor:
    """Quantize `W` so that its output error under the Hessian `H` stays small.

    Args:
        W: The weight; it is not changed.
        H: Hessian of the inputs, see `core.hessian`; or its `factors`, for the same arguments
            and the grid's block.
        grid: The numbers to round to.
        damp: Fraction of the mean diagonal of `H` that is added to its diagonal.
        act_order: Round columns in the order of decreasing diagonal of `H`. Scales are then computed from the original
            weight ("static groups"), so that groups stay consecutive and cost nothing at run time; otherwise a group's
            scale is computed when its first column is reached, from the weight as updated so far.
        scales: Rule for scales; all rules but `range` compute them from the original weight.

    Raises:
        NumericalError: `H` is not finite or cannot be factorised.
        ValueError: The shapes of `W` and `H` do not match.
    """
    order, U, idle = (
        H if isinstance(H, Factors) else factors(H, damp=damp, act_order=act_order, block=grid.elements.block)
    )
    _check_shapes(W, U)
    active = W.float().masked_fill(idle, 0)
    affine = found_scales(active, grid, order, U, scales)
    return round_columns(active, grid, order, U, act_order=act_order, affine=affine)


def found_scales(
    W: Float[Tensor, "out in"], grid: Grid, order: Int[Tensor, " in"], U: Float[Tensor, "in in"], scales: Scales
) -> AffineParams | None:
    """Scales and zero points of the original weight; None for the rule `range`, which `round_columns` applies."""
    if scales == "range":
        return None
    return shrunk(W, grid) if scales == "mse" else scales_of_least_loss(W, grid, order, U)


def searched_scales(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    grid: Grid,
    scales: Scales,
    *,
    damp: float = 0.01,
    act_order: bool = False,
) -> AffineParams | None:
    """The scales and zero points with which `gptq` would round `W`; None for the rule `range`.

    Raises:
        NumericalError: `H` is not finite or cannot be factorised.
        ValueError: The shapes of `W` and `H` do not match.
    """
    _check_shapes(W, H)
    order, U, idle = factors(H, damp=damp, act_order=act_order, block=grid.elements.block)
    return found_scales(W.float().masked_fill(idle, 0), grid, order, U, scales)


def scales_of_least_loss(
    W: Float[Tensor, "out in"], grid: Grid, order: Int[Tensor, " in"], U: Float[Tensor, "in in"]
) -> AffineParams:
    """Scales and zero points with a small loss, in place of those that cover each group's range.

    An error `e` of column `q` costs `e² / U_qq²` after the later columns have compensated for it as well as they can;
    the search weights errors accordingly.

    Args:
        W: The weight.
        grid: A grid of integers with scales per row or per group.
        order: The order in which columns will be rounded.
        U: As in `round_columns`.
    """
    importance = torch.empty_like(U.diagonal())
    importance[order] = U.diagonal().square().reciprocal()
    return search(W, importance[None], grid)


def _check_shapes(W: Tensor, H: Tensor) -> None:
    size = W.shape[1]
    if H.shape != (size, size):
        raise ValueError(f"a weight with {size} inputs needs a {size} × {size} Hessian, got {tuple(H.shape)}")


def column_order(
    W: Float[Tensor, "out in"], H: Float[Tensor, "in in"], act_order: bool, block: int = 1
) -> Int[Tensor, " in"]:
    """The order in which columns are rounded: by decreasing diagonal of `H`, or first to last.

    Args:
        W: The weight.
        H: The Hessian.
        act_order: Whether to sort.
        block: Consecutive columns that stay together, as a codebook has vectors of so many.

    Raises:
        ValueError: The shapes of `W` and `H` do not match, or there are no whole blocks.
    """
    size = W.shape[1]
    _check_shapes(W, H)
    if size % block:
        raise ValueError(f"a weight with {size} inputs has no whole blocks of {block}")
    if act_order:
        firsts = block * torch.argsort(H.diagonal().view(-1, block).sum(dim=1), descending=True, stable=True)
        return (firsts[:, None] + torch.arange(block, device=W.device)).flatten()
    return torch.arange(size, device=W.device)


def round_columns(
    W: Float[Tensor, "out in"],
    grid: Grid,
    order: Int[Tensor, " in"],
    U: Float[Tensor, "in in"],
    P: Float[Tensor, "in in"] | None = None,
    *,
    act_order: bool,
    affine: AffineParams | None = None,
) -> QuantizedTensor:
    """Round one column after the other; the error of each is spread over the columns that follow it in `order`.

    Column `q` with current value `w`, rounded to `v`, adds `−(w − v) / U_qq · U_q + w · P_q` to the columns that
    follow. These updates are applied at three levels (by column within a panel, by panel within a block, by block), so
    that nearly all of the work is matrix products. Columns of a codebook are rounded by `core.vector_feedback`.

    Args:
        W: The weight; it is not changed.
        grid: The numbers to round to.
        order: The order of the columns.
        U: Effect of an error on the columns that follow; upper triangular, rows and columns in `order`.
        P: Effect of a column's value on the columns that follow; strictly upper triangular, in `order`; see
            `core.gptaq`.
        act_order: Whether scales are fitted before the first column is rounded.
        affine: Scales and zero points fitted already, storable by the grid; None to fit them here.
    """
    W, size = W.detach(), W.shape[1]
    if isinstance(grid.elements, Codebook):
        return round_vectors(W, grid, grid.elements, order, U, P, grid.fit(W) if affine is None else affine)
    group_size = min(grid.group_size, size)
    fitted = affine is not None or act_order or grid.spans_groups or group_size == size
    if affine is None:
        affine = grid.fit(W) if fitted else _unfitted(W, groups.count(size, group_size))
    scales, zero_points = affine.scale.T.contiguous(), affine.zero_point.T.contiguous()
    columns = W.T[order].contiguous()  # (in, out): the column being rounded is contiguous in memory
    codes = torch.empty_like(columns)
    spread = U if P is None else torch.stack((U, -P), dim=1).flatten(0, 1)  # (2 in, in): one row of each per column
    rows = len(spread) // size
    step = _BLOCK if fitted else group_size * max(1, _BLOCK // group_size)  # a group never straddles two blocks
    panel = _PANEL if fitted or group_size >= step else group_size  # a group begins with a panel, or with a block
    group_of, pivots = (order // group_size).tolist(), U.diagonal().tolist()
    for start in range(0, size, step):
        stop = min(start + step, size)
        added = torch.empty(rows * (stop - start), columns.shape[1], device=W.device)
        for first in range(start, stop, panel):
            end, done = min(first + panel, stop), rows * (first - start)
            columns[first:end].addmm_(spread[rows * start : rows * first, first:end].T, added[:done], alpha=-1)
            for column in range(first, end):
                value, last = columns[column], rows * (column - start)
                value.addmv_(added[done:last].T, spread[rows * first : rows * column, column], alpha=-1)
                group = group_of[column]
                if not fitted and column % group_size == 0:
                    _fit_group_(scales, zero_points, columns[column : min(column + group_size, size)], grid, group)
                codes[column] = grid.encode(value, scales[group], zero_points[group])
                rounded = grid.decode(codes[column], scales[group], zero_points[group])
                torch.sub(value, rounded, out=added[last]).div_(pivots[column])
                if P is not None:
                    added[last + 1] = value
        columns[stop:].addmm_(spread[rows * start : rows * stop, stop:].T, added, alpha=-1)
    affine = AffineParams(scales.T, zero_points.T)
    return grid.assemble(codes[torch.argsort(order)].T.contiguous(), affine)


def _unfitted(W: Float[Tensor, "out in"], group_count: int) -> AffineParams:
    shape = (W.shape[0], group_count)
    return AffineParams(torch.ones(shape, device=W.device), torch.zeros(shape, device=W.device))


def _fit_group_(
    scales: Float[Tensor, "groups out"],
    zero_points: Float[Tensor, "groups out"],
    columns: Float[Tensor, "size out"],
    grid: Grid,
    group: int,
) -> None:
    """Set the parameters of one group from its current columns."""
    scales[group], zero_points[group] = grid.cover(groups.Bounds(*torch.aminmax(columns, dim=0)))
