"""Rounding offsets and clipped ranges of one weight, learned by signed gradient descent (AutoRound).

Cheng, Zhang, Shen, Cai, He, Lv, Liu, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
LLMs", Findings of EMNLP 2024, arXiv 2309.05516:

    ŵ = s · (clamp(round(w/s + v) + z) − z),   range = [α · min w, β · max w],   v in [−½, ½],   α, β in [0, 1]
    v ← v − lr · sign(∂L/∂v)                   and the same for α and β
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.straight_through import Range, fake_quantize, in_groups, out_of_groups, quantize, range_of


class LearnedRounding:
    """A weight whose rounding is being learned. It starts as the nearest: no offsets, whole ranges.

    Args:
        weight: The weight, float32.
        grid: Integers; where symmetric, of rule `span` or `extreme`.
    """

    def __init__(self, weight: Float[Tensor, "out in"], grid: Grid) -> None:
        self._shape, self._grid = weight.shape, grid
        self._weight = in_groups(weight.detach(), grid)
        self._range = range_of(self._weight)
        self._offset = torch.zeros_like(self._weight).requires_grad_()
        self._alpha, self._beta = (torch.ones_like(bound).requires_grad_() for bound in self._range)

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """What the weight has become, differentiable in all that is learned."""
        rounded = fake_quantize(self._weight, self._offset, self._covered(), self._grid, dtype)
        return out_of_groups(rounded, self._shape)

    @torch.no_grad()
    def step_(self, lr: float) -> None:
        """One signed step along the gradients that were accumulated, which are dropped; no gradient, no step."""
        for learned, low, high in ((self._offset, -0.5, 0.5), (self._alpha, 0.0, 1.0), (self._beta, 0.0, 1.0)):
            if learned.grad is not None:
                learned.add_(learned.grad.sign_(), alpha=-lr).clamp_(low, high)
                learned.grad = None

    @torch.no_grad()
    def quantized(self) -> QuantizedTensor:
        """The codes as they are now."""
        return quantize(self._weight, self._offset, self._covered(), self._grid, self._shape)

    def _covered(self) -> Range:
        return Range(self._alpha * self._range.low, self._beta * self._range.high)
