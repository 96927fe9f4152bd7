"""Slow, obviously right oracles for the fast solvers in `core/`, at toy sizes, in float64."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid


def refit_and_round(
    W: Float[Tensor, "out in"], H: Float[Tensor, "in in"], grid: Grid, order: list[int], static: bool
) -> Float[Tensor, "out in"]:
    """GPTQ by its definition: fix one column after another, and refit all others by least squares each time.

    With the columns `done` fixed at their rounded values, the free ones minimise
    `(w − w₀) H (w − w₀)ᵀ`, whose solution is `w_free = w₀_free − (w_done − w₀_done) H_done,free H_free,free⁻¹`.
    Nothing is updated incrementally.

    Args:
        W: The weight.
        H: The damped Hessian.
        grid: The integers to round to.
        order: The order in which columns are fixed.
        static: Whether scales come from `W`; otherwise from the refitted columns when a group is reached, which
            requires `order` to be the natural one.
    """
    W, H = W.double(), H.double()
    size = W.shape[1]
    group_size = min(grid.group_size, size)
    affine = grid.fit(W.float())
    scale, zero_point = affine.scale.double(), affine.zero_point.double()
    current, done = W.clone(), []
    for column in order:
        group = column // group_size
        if not static and column % group_size == 0:
            members = current[:, column : column + group_size].float()
            fitted = Grid(grid.bits, grid.symmetric, group_size, grid.scale_bits).fit(members)
            scale[:, group], zero_point[:, group] = (
                fitted.scale[:, 0].double(),
                fitted.zero_point[:, 0].double(),
            )
        codes = grid.encode(current[:, column], scale[:, group], zero_point[:, group])
        current[:, column] = scale[:, group] * (codes - zero_point[:, group])
        done.append(column)
        free = [index for index in order if index not in done]
        if free:
            moved = (current[:, done] - W[:, done]) @ H[done][:, free]
            current[:, free] = W[:, free] - moved @ torch.linalg.inv(H[free][:, free])
    return current


def best_on_grid(
    w: Float[Tensor, " in"], H: Float[Tensor, "in in"], scale: float, codes: range
) -> tuple[Float[Tensor, " in"], float]:
    """The codes that minimise `(w − s·c) H (w − s·c)ᵀ` among all `len(codes) ** in` of them, and that minimum."""
    best, least = torch.zeros_like(w), float("inf")
    for candidate in itertools.product(codes, repeat=len(w)):
        chosen = torch.tensor(candidate, dtype=w.dtype)
        error = w - scale * chosen
        loss = float(error @ H @ error)
        if loss < least:
            best, least = chosen, loss
    return best, least


def pack_one_by_one(codes: list[int], bits: int) -> bytes:
    """Pack codes through one big integer, code `i` at bit `i · bits`."""
    stream: int = sum((code % 2**bits) << (bits * index) for index, code in enumerate(codes))
    return stream.to_bytes(-(-len(codes) * bits // 8), "little")
