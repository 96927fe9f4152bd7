"""Slow, obviously right oracles for sequential solvers, at toy sizes, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid


def make_up_and_round(
    W: Float[Tensor, "out in"],
    X: Float[Tensor, "tokens in"],
    exact: Float[Tensor, "tokens in"],
    damp: float,
    grid: Grid,
    order: list[int],
    static: bool,
) -> Float[Tensor, "out in"]:
    """GPTAQ by its definition: each rounded column's error is compensated by least squares over the free columns.

    A column of value `w` rounded to `v` leaves the error `w x̃ − v x` over all tokens. Damping is a set of additional
    tokens, one per input, in which only that input is active and both models agree.

    Args:
        W: The weight.
        X: Inputs after quantized blocks.
        exact: Inputs of the full-precision model at the same tokens.
        damp: Fraction of the mean square of the inputs that damping adds.
        grid: The integers to round to.
        order: The order in which columns are fixed.
        static: Whether scales come from `W`; otherwise from the current columns when a group is reached, which
            requires `order` to be the natural one.
    """
    tokens, size = X.shape
    mean_square = float(X.double().square().sum() / tokens / size)
    further = (damp * mean_square) ** 0.5 * torch.eye(size, dtype=torch.float64)
    X, exact = (torch.cat((inputs.double() / tokens**0.5, further)) for inputs in (X, exact))
    group_size = min(grid.group_size, size)
    scale, zero_point = (values.double() for values in grid.fit(W.float()))
    current = W.double().clone()
    for position, column in enumerate(order):
        group = column // group_size
        if not static and column % group_size == 0:
            fitted = grid.fit(current[:, column : column + group_size].float())
            scale[:, group], zero_point[:, group] = (values[:, 0].double() for values in fitted)
        value = current[:, column].clone()
        codes = grid.encode(value, scale[:, group], zero_point[:, group])
        current[:, column] = scale[:, group] * (codes - zero_point[:, group])
        free = order[position + 1 :]
        if free:
            owed = torch.outer(exact[:, column], value) - torch.outer(X[:, column], current[:, column])
            current[:, free] += torch.linalg.lstsq(X[:, free], owed).solution.T
    return current
