"""Rules for the scale of a symmetric group of weights."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.elements import Elements
from slmquant.core.minifloat import power_below

Rule = Literal["span", "extreme", "power", "least squares"]
"""Name of a rule; see `covering`."""


def covering(bounds: groups.Bounds, elements: Elements, rule: Rule) -> Float[Tensor, "*shape"]:
    """Scales that cover given ranges, in their shape, by `rule`; 0 for a group of zeros.

    * `span`: `scale = max|w| / ((high − low) / 2)`, so that both sides of the elements are used, and with integers
      only the extreme positive value is clipped, by half a step; this is the convention of GPTQ's code and of
      compressed-tensors. With elements that are symmetric about 0, `max|w|` falls on the largest element.
    * `extreme`: the weight of largest magnitude falls on the lowest code, whatever its sign, as in ggml.
    * `power`: `2^(floor(log2 max|w|) − floor(log2 high))`, the rule of the OCP microscaling formats; values above
      `high` are clipped.
    * `least squares`, for ternary weights: half of `max|w|`, near the best for a group of 64 normal weights.
      `best_ternary`, which sees the weights, finds the best.
    """
    low, high = bounds
    largest = torch.maximum(low.abs(), high.abs())
    if rule == "extreme":
        return torch.where(-low >= high, low, high) / elements.low
    if rule == "power":
        scale = torch.where(largest > 0, power_below(largest), largest)
        return scale / float(power_below(torch.tensor(float(elements.high))))
    if rule == "least squares":
        return largest / 2
    return 2 * largest / (elements.high - elements.low)


def best_ternary(W: Float[Tensor, "out groups size"]) -> Float[Tensor, "out groups"]:
    """The scale `s` that minimises `Σ (w − s·t)²` over `t` in {−1, 0, 1}, exactly.

    With the `k` largest magnitudes kept, the best `s` is their mean and the error falls by `(Σ|w|)² / k`; all `k` are
    tried and the best is taken.
    """
    sums = W.abs().sort(dim=2, descending=True).values.cumsum(dim=2)
    kept = torch.arange(1, W.shape[2] + 1, device=W.device)
    best = (sums.square() / kept).argmax(dim=2, keepdim=True)
    return (sums.gather(2, best) / (best + 1))[..., 0]
