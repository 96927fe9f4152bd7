"""AWQ's scale search: the power of the activations' magnitude to move into the weights before rounding.

Lin et al., "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration" (MLSys 2024,
arXiv 2306.00978), eq. 4 and 5: `s = s_X^r`, and `r` minimises `‖(Q(W diag(s)) diag(s)⁻¹ − W) X‖²`. The loss is
exactly `tr(ΔW H ΔWᵀ)` with `H = E[x xᵀ]`, so the tokens are not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SMALLEST = 1e-4
_PANELS = 4

RATIOS: tuple[float, ...] = tuple(step / 20 for step in range(20))
"""Powers that are tried: the authors' twenty, from 0 (no scaling) up to 0.95."""

Round = Callable[[Float[Tensor, "out in"]], Float[Tensor, "out in"]]
"""Rounds a weight to the numbers that its codes stand for."""


class Found(NamedTuple):
    """The outcome of a search.

    Attributes:
        factors: Divisors of the activations and multipliers of the weight columns; all 1 if no power helps.
        loss: `tr(ΔW H ΔWᵀ)` with these factors.
        unscaled_loss: `tr(ΔW H ΔWᵀ)` without scaling.
    """

    factors: Float[Tensor, " in"]
    loss: float
    unscaled_loss: float


def best_factors(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    magnitude: Float[Tensor, " in"],
    round_weight: Round,
    share: Callable[[Float[Tensor, " in"]], Float[Tensor, " in"]] = lambda factors: factors,
    ratios: tuple[float, ...] = RATIOS,
) -> Found:
    """Search the power of `magnitude` with the smallest loss.

    Args:
        W: The weights of all linears that read the input, stacked along the outputs.
        H: Mean of `x xᵀ` over the inputs.
        magnitude: Mean magnitude of each input channel.
        round_weight: The rounding to search for.
        share: Makes factors equal that must be equal (channels that follow one row of the previous linear).
        ratios: Powers to try, the first being 0; of equal losses the first wins.
    """
    unscaled = output_loss(round_weight(W) - W, H)
    found = Found(torch.ones_like(magnitude), unscaled, unscaled)
    for ratio in ratios:
        factors = share(powers(magnitude, ratio))
        scaled = W * factors
        loss = output_loss(round_weight(scaled).sub_(scaled), H / factors[:, None] / factors)
        if loss < found.loss:
            found = Found(factors, loss, unscaled)
    return found


def powers(magnitude: Float[Tensor, " in"], ratio: float) -> Float[Tensor, " in"]:
    """`magnitude ** ratio`, divided by the geometric mean of its largest and smallest, as the authors normalise it."""
    factors = magnitude.clamp(min=_SMALLEST).pow(ratio).clamp(min=_SMALLEST)
    return factors / (factors.max() * factors.min()).sqrt()


def output_loss(error: Float[Tensor, "out in"], H: Float[Tensor, "in in"]) -> float:
    """`tr(E H Eᵀ)`: squared error of the output, summed over channels, mean over tokens.

    Only panels on and above the diagonal of `H` are computed, and those above count twice: 10/16 of the
    multiplications.
    """
    step = -(-H.shape[0] // _PANELS)
    total = 0.0
    for start in range(0, H.shape[0], step):
        stop = start + step
        panel = error[:, start:stop]
        product = panel @ H[start:stop, start:]
        product[:, step:] *= 2
        total += float(product.mul_(error[:, start:]).sum())
    return total
