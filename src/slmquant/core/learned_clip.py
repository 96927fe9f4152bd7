"""Ranges of one weight, clipped by learned factors (OmniQuant's learnable weight clipping).

Shao et al., "OmniQuant: Omnidirectionally Calibrated Quantization for Large Language Models", ICLR 2024,
arXiv 2308.13137, eq. 2: the grid of a group covers `[σ(a) · min w, σ(b) · max w]`, with `σ` the logistic function.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.straight_through import Range, fake_quantize, in_groups, out_of_groups, quantize, range_of


class ClipLogits(NamedTuple):
    """The learned clipping of a weight; with infinite logits nothing is clipped and the weight is rounded to nearest.

    Attributes:
        low: `a` of each group.
        high: `b` of each group.
    """

    low: Float[Tensor, "rows groups"]
    high: Float[Tensor, "rows groups"]

    @classmethod
    def filled(cls, weight: Float[Tensor, "out in"], grid: Grid, value: float) -> ClipLogits:
        """The same logits for every group of a weight."""
        bound = range_of(in_groups(weight, grid)).low
        return cls(torch.full_like(bound, value), torch.full_like(bound, value))

    def dense(self, weight: Float[Tensor, "out in"], grid: Grid, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The weight rounded within its clipped ranges, differentiable in the weight and the logits."""
        grouped = in_groups(weight, grid)
        return out_of_groups(fake_quantize(grouped, None, self._clipped(grouped), grid, dtype), weight.shape)

    @torch.no_grad()
    def quantized(self, weight: Float[Tensor, "out in"], grid: Grid) -> QuantizedTensor:
        """The codes of the result of `dense`."""
        grouped = in_groups(weight, grid)
        return quantize(grouped, None, self._clipped(grouped), grid, weight.shape)

    def _clipped(self, grouped: Float[Tensor, "rows groups size"]) -> Range:
        low, high = range_of(grouped)
        return Range(self.low.sigmoid() * low, self.high.sigmoid() * high)
