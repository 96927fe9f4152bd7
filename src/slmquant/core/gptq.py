"""GPTQ: rounding one input column at a time, spreading each error over the columns not yet rounded.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023,
arXiv 2210.17323), algorithm 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import AffineParams, Grid, QuantizedTensor
from slmquant.core.hessian import inverse_cholesky

_BLOCK = 128
"""Columns whose updates are gathered before the rest of the matrix is touched; it changes speed, not the result."""


def gptq(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    grid: Grid,
    *,
    damp: float = 0.01,
    act_order: bool = False,
) -> QuantizedTensor:
    """Quantize `W` so that its output error under the Hessian `H` stays small.

    Args:
        W: The weight; it is not changed.
        H: Hessian of the inputs, see `core.hessian`.
        grid: The integers to round to.
        damp: Fraction of the mean diagonal of `H` that is added to its diagonal.
        act_order: Round columns in the order of decreasing diagonal of `H`. Scales then come from the weight as
            it was at the start ("static groups"), so that groups stay consecutive and cost nothing at run time;
            otherwise a group's scale is found when its first column is reached, from the weight as updated so far.

    Raises:
        NumericalError: `H` is not finite or cannot be factorised.
        ValueError: `W` and `H` do not fit.
    """
    size = W.shape[1]
    if H.shape != (size, size):
        raise ValueError(f"a weight with {size} inputs needs a {size} × {size} Hessian, got {tuple(H.shape)}")
    W = W.float().masked_fill(H.diagonal() == 0, 0)  # an input that is never active needs no weight
    order = torch.argsort(H.diagonal(), descending=True, stable=True) if act_order else torch.arange(size)
    U = inverse_cholesky(H[order][:, order], damp).float()
    group_size = min(grid.group_size, size)
    fitted = act_order or group_size == size
    affine = grid.fit(W) if fitted else _unfitted(W, groups.count(size, group_size))
    columns = W.T[order].contiguous()  # (in, out): the column being rounded lies contiguous in memory
    codes = torch.empty_like(columns)
    step = _BLOCK if fitted else group_size * max(1, _BLOCK // group_size)  # a group never straddles two blocks
    for start in range(0, size, step):
        stop = min(start + step, size)
        errors = torch.empty_like(columns[start:stop])
        for column in range(start, stop):
            if not fitted and column % group_size == 0:
                _fit_group_(affine, columns[column : min(column + group_size, size)], grid, column // group_size)
            group = int(order[column]) // group_size
            scale, zero_point = affine.scale[:, group], affine.zero_point[:, group]
            codes[column] = grid.encode(columns[column], scale, zero_point)
            rounded = grid.decode(codes[column], scale, zero_point)
            errors[column - start] = (columns[column] - rounded) / U[column, column]
            columns[column + 1 : stop].addr_(U[column, column + 1 : stop], errors[column - start], alpha=-1)
        columns[stop:].addmm_(U[start:stop, stop:].T, errors, alpha=-1)
    return grid.assemble(codes[torch.argsort(order)].T.contiguous(), affine)


def _unfitted(W: Float[Tensor, "out in"], group_count: int) -> AffineParams:
    shape = (W.shape[0], group_count)
    return AffineParams(torch.ones(shape, device=W.device), torch.zeros(shape, device=W.device))


def _fit_group_(affine: AffineParams, columns: Float[Tensor, "size out"], grid: Grid, group: int) -> None:
    """Fill in the parameters of one group from its columns as they are now."""
    fitted = grid.cover(groups.Bounds(*torch.aminmax(columns, dim=0)))
    affine.scale[:, group], affine.zero_point[:, group] = fitted
