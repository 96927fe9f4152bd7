"""HQQ: zero points that keep most weights close and tolerate a few large errors, without calibration data.

Badri, Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (Mobius Labs, 2023),
https://mobiusml.github.io/hqq_blog/: `min ‖W − Ŵ‖ₚᵖ` with `p < 1`, split into two steps by a matrix `E` of tolerated
errors: `min ‖E‖ₚᵖ + β/2 ‖E − (W − Ŵ)‖²`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.scales import AffineParams

_SMALLEST = 1e-12


def hqq(
    W: Float[Tensor, "out in"],
    grid: Grid,
    *,
    p: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    iterations: int = 20,
) -> AffineParams:
    """Parameters of every group of `W` that keep `Σ|W − Ŵ|ᵖ` small; never worse than `grid.fit(W)` by that measure.

    Two steps alternate: the errors are shrunk towards 0 (`shrink`), which leaves those of outliers; then the zero point
    is fitted in closed form to the weights without these errors. The scale stays that of the range.

    Args:
        W: The weight.
        grid: The integers to round to, with real zero points.
        p: Exponent of the objective, in (0, 1].
        beta: Weight of the quadratic term at the start, with errors measured in steps of the group.
        growth: Factor on `beta` after each iteration.
        iterations: Number of iterations.

    Raises:
        ValueError: The grid has no real zero points.
    """
    if not grid.real_zero_point:
        raise ValueError(f"HQQ fits real zero points, but {grid} has none; set real_zero_point=True")
    affine = grid.fit(W)
    parts = [W.reshape(1, 1, -1)] if grid.per_tensor else groups.split(W, min(grid.group_size, W.shape[1]))
    solved, start = [], 0
    for part in parts:
        stop = start + part.shape[1]
        fitted = AffineParams(affine.scale[:, start:stop], affine.zero_point[:, start:stop])
        solved.append(_solve(part, fitted, grid, p, beta, growth, iterations))
        start = stop
    scale, zero_point = (torch.cat(values, dim=1) for values in zip(*solved, strict=True))
    return AffineParams(scale, zero_point)


def shrink(x: Float[Tensor, "*any"], beta: float, p: float) -> Float[Tensor, "*any"]:
    """Generalised soft threshold `sign(x) · max(0, |x| − |x|^(p−1) / β)`, eq. 3: the proximal step for `|x|ᵖ`."""
    magnitude = x.abs()
    return _shrunk(magnitude, _slope(magnitude, p), beta).copysign_(x)


def _slope(magnitude: Float[Tensor, "*any"], p: float) -> Float[Tensor, "*any"]:
    """`|x|^(p−1)`, the slope of `|x|ᵖ` up to a factor `p`; large but finite at 0."""
    return magnitude.clamp(min=_SMALLEST).pow_(p - 1)


def _shrunk(magnitude: Float[Tensor, "*any"], slope: Float[Tensor, "*any"], beta: float) -> Float[Tensor, "*any"]:
    return (magnitude - slope / beta).clamp_(min=0)


def _solve(
    W: Float[Tensor, "out groups size"],
    affine: AffineParams,
    grid: Grid,
    p: float,
    beta: float,
    growth: float,
    iterations: int,
) -> AffineParams:
    """The best parameters of all iterations, for each group; errors are measured in steps."""
    scale, zero_point = affine.scale[..., None], affine.zero_point[..., None]
    best_zero_point = zero_point
    least = torch.full_like(scale, torch.inf)
    for step in range(iterations + 1):
        steps = W / scale
        centred = grid.elements.values(grid.encode(W, scale, zero_point)) - zero_point
        error = steps - centred
        magnitude = error.abs()
        slope = _slope(magnitude, p)
        loss = (magnitude * slope).sum(dim=2, keepdim=True) * scale.abs().pow(p)
        better = loss < least
        least = torch.where(better, loss, least)
        best_zero_point = torch.where(better, zero_point, best_zero_point)
        if step == iterations:
            break
        kept = steps.sub_(_shrunk(magnitude, slope, beta * growth**step).copysign_(error))
        fitted = zero_point + (centred - kept).mean(dim=2, keepdim=True)
        zero_point = fitted.half().to(W.dtype)  # as it will be stored
    return AffineParams(affine.scale, best_zero_point[..., 0])
