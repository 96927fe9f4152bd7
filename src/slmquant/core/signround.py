"""Rounding offsets and clipped ranges of one weight, learned by signed gradient descent (AutoRound).

Cheng, Zhang, Shen, Cai, He, Lv, Liu, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
LLMs", Findings of EMNLP 2024, arXiv 2309.05516:

    ŵ = s · (clamp(round(w/s + v) + z) − z),   range = [α · min w, β · max w],   v in [−½, ½],   α, β in [0, 1]
    v ← v − lr · sign(∂L/∂v)                   and the same for α and β
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.scales import AffineParams
from slmquant.core.straight_through import Range, fake_quantize, in_groups, out_of_groups, quantize, range_of


class LearnedRounding:
    """A weight whose rounding is being learned. It starts at rounding to nearest: no offsets, full ranges.

    Args:
        weight: The weight, float32.
        grid: Integers; if symmetric, with the rule `span` or `extreme`.
        start: Scales and zero points to start from, instead of those that cover full ranges. A symmetric scale may be
            negative and keeps its sign: the end that falls on the lowest code is then the positive one.
    """

    def __init__(self, weight: Float[Tensor, "out in"], grid: Grid, start: AffineParams | None = None) -> None:
        self._shape, self._grid, self._stored = weight.shape, grid, grid
        self._weight = in_groups(weight.detach(), grid)
        self._range = range_of(self._weight)
        self._offset = torch.zeros_like(self._weight).requires_grad_()
        begin = self._range
        if start is not None:
            if grid.symmetric:
                self._grid = replace(grid, rule="extreme")
            begin = _covered_by(start, grid)
            self._range = _holding(begin, self._range, grid)
        self._alpha, self._beta = (
            _ratio(part, whole).requires_grad_() for part, whole in zip(begin, self._range, strict=True)
        )

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The rounded weight, differentiable in all learned parameters."""
        rounded = fake_quantize(self._weight, self._offset, self._covered(), self._grid, dtype)
        return out_of_groups(rounded, self._shape)

    @torch.no_grad()
    def step_(self, lr: float) -> None:
        """Take one signed gradient step and clear the gradients; parameters without a gradient do not change."""
        for learned, low, high in ((self._offset, -0.5, 0.5), (self._alpha, 0.0, 1.0), (self._beta, 0.0, 1.0)):
            if learned.grad is not None:
                learned.add_(learned.grad.sign_(), alpha=-lr).clamp_(low, high)
                learned.grad = None

    @torch.no_grad()
    def quantized(self) -> QuantizedTensor:
        """The current codes."""
        codes = quantize(self._weight, self._offset, self._covered(), self._grid, self._shape)
        return replace(codes, grid=self._stored)

    def _covered(self) -> Range:
        return Range(self._alpha * self._range.low, self._beta * self._range.high)


def _covered_by(affine: AffineParams, grid: Grid) -> Range:
    """Ranges covered by given parameters; for a symmetric grid, from 0 to the end that falls on the lowest code."""
    scale = affine.scale.detach()
    if grid.symmetric:
        end = scale * grid.elements.low
        return Range(end.clamp(max=0), end.clamp(min=0))
    low = -scale * affine.zero_point.detach()
    return Range(low, low + scale * (grid.elements.high - grid.elements.low))


def _holding(part: Range, weights: Range, grid: Grid) -> Range:
    """Ranges that contain both the start of learning and the weights, so that factors lie in [0, 1]."""
    if not grid.symmetric:
        return Range(torch.minimum(part.low, weights.low), torch.maximum(part.high, weights.high))
    largest = torch.maximum(weights.low.abs(), weights.high.abs())
    low, high = (torch.maximum(bound.abs(), largest) * (bound != 0) for bound in part)
    return Range(-low, high)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Covered share of each range; 1 for an empty range."""
    return torch.where(whole == 0, torch.ones_like(whole), part / whole)
