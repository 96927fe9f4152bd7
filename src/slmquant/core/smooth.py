"""Migrating the range of activations into weights (SmoothQuant, Xiao et al., ICML 2023, arXiv 2211.10438)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_SMALLEST = 1e-5


def smoothing_factors(
    act_range: Float[Tensor, " in"], weight_absmax: Float[Tensor, " in"], alpha: float
) -> Float[Tensor, " in"]:
    """`s_j = max|X_j|^α / max|W_j|^(1−α)`, eq. 4: activations are divided by it, weight columns multiplied.

    Args:
        act_range: Largest magnitude of each input channel over the calibration tokens, or another measure of range.
        weight_absmax: Largest magnitude of each input column over all linears that read that input.
        alpha: Migration strength in [0, 1]: 0 leaves the whole range to the activations, 1 moves all of it to the
            weights.

    A channel that is never active, or whose weights are all 0, gets the factor 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a value in [0, 1]")
    factors = act_range.clamp(min=_SMALLEST) ** alpha / weight_absmax.clamp(min=_SMALLEST) ** (1 - alpha)
    idle = (act_range == 0) | (weight_absmax == 0)
    return torch.where(idle, torch.ones_like(factors), factors.clamp(min=_SMALLEST))
