"""Slow, obviously right oracles for HQQ, AWQ, clipping and low-rank correction, at toy sizes."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid


def least_shrinkage(x: float, beta: float, p: float) -> float:
    """The `e` that minimises `|e|ᵖ / p + β/2 (e − x)²`, among 50,001 candidates from `x / 2` to `x`."""
    candidates = x * np.linspace(0.5, 1.0, 50001)
    return float(candidates[np.argmin(np.abs(candidates) ** p / p + beta / 2 * (candidates - x) ** 2)])


def scan_zero_points(W: Float[Tensor, "out in"], grid: Grid, p: float, steps: int = 200) -> float:
    """The least `Σ|W − Ŵ|ᵖ` if the zero point of every group is the best of `steps` around that of the range.

    Scales stay those of the range. Groups and zero points are tried one by one, in float64.
    """
    affine = grid.fit(W)
    size = min(grid.group_size, W.shape[1])
    low, high = grid.code_range
    total = 0.0
    for row, group in product(range(W.shape[0]), range(affine.scale.shape[1])):
        w = W[row, group * size : (group + 1) * size].double().numpy()
        scale, start = float(affine.scale[row, group]), float(affine.zero_point[row, group])
        least = np.inf
        for zero_point in np.linspace(start - 1, start + 1, steps):
            codes = np.clip(np.round(w / scale + zero_point), low, high)
            least = min(least, float((np.abs(w - scale * (codes - zero_point)) ** p).sum()))
        total += least
    return total


def mean_squared_output(error: Float[Tensor, "out in"], X: Float[Tensor, "tokens in"]) -> float:
    """`Σ_out mean_tokens (error · x)²`, token by token."""
    return sum(float((error.double() @ x.double()).square().sum()) for x in X) / len(X)


def best_clip_ratios(
    W: Float[Tensor, "out in"], X: Float[Tensor, "tokens in"], grid: Grid, ratios: tuple[float, ...]
) -> Float[Tensor, "out groups"]:
    """For every group of every row, the ratio with the least output error on the tokens, tried one by one."""
    size = min(grid.group_size, W.shape[1])
    starts = range(0, W.shape[1], size)
    best = torch.ones(W.shape[0], len(starts))
    for row, (group, start) in product(range(W.shape[0]), enumerate(starts)):
        w, x = W[row : row + 1, start : start + size], X[:, start : start + size]
        alone = Grid(grid.bits, grid.symmetric, w.shape[1], grid.scale_bits)
        losses = []
        for ratio in ratios:
            # parameters come from the weight scaled to the narrower range; the full weight is rounded with them
            rounded = alone.quantize(w, alone.fit(w * ratio)).dequantize()
            losses.append(mean_squared_output(w - rounded, x))
        best[row, group] = ratios[int(np.argmin(losses))]
    return best


def best_low_rank(
    error: Float[Tensor, "out in"], X: Float[Tensor, "tokens in"], rank: int
) -> tuple[Float[Tensor, "out in"], float]:
    """The matrix `M` of rank `rank` that minimises `‖(E − M) X‖² / tokens`, and the minimum (Eckart, Young, 1936).

    With `X = U S Vᵀ`, `‖(E − M) Xᵀ‖ = ‖(E − M) V S‖`; the best approximation of `E V S` is its truncated singular
    value decomposition, which is multiplied by the inverse of `V S`.
    """
    E, x = error.double().numpy(), X.double().numpy() / len(X) ** 0.5
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    root = vt.T * s
    u, sigma, wt = np.linalg.svd(E @ root, full_matrices=False)
    cut = (u[:, :rank] * sigma[:rank]) @ wt[:rank]
    return torch.from_numpy(cut @ np.linalg.pinv(root)), float((sigma[rank:] ** 2).sum())
