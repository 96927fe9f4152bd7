"""The search for scales and minima of ggml's quantizers: `min Σ importance · (w − ŵ)²`, group by group.

After `make_qkx2_quants` and `make_qx_quants` of llama.cpp (`ggml-quants.c`), which have no paper. For fixed codes the
best scale and shift are a weighted least-squares line through the points (code, weight). The search tries a few scales
around the one that covers the range, computes the codes of each, fits the line, and keeps the best line. If zero points
must be whole numbers (not in GGUF's types), the line is fitted again through the nearest whole zero point.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.codebooks import Codebook
from slmquant.core.minifloat import SMALLEST_HALF
from slmquant.core.scales import AffineParams

_REACH = 1.0
_STEPS = 21
_VECTOR_STEPS = 7
_VECTOR_LEVELS = 4.0
_CACHED_ELEMENTS = 1 << 16
"""Weights that are searched together: few enough to stay in the processor's cache with all temporaries."""


def search(W: Float[Tensor, "out in"], importance: Float[Tensor, "#out in"], grid: Grid) -> AffineParams:
    """Storable parameters of every group of `W` that keep `Σ importance · (w − ŵ)²` small.

    Each group's error is at most that of the scale that covers its range, before scales and zero points are rounded
    to their stored values.

    Args:
        W: The weight.
        importance: Weight of each squared error; not negative.
        grid: A grid with groups, of integers, a table of numbers or a codebook.
    """
    size = min(grid.group_size, W.shape[1])
    levels = _levels(grid)
    solved = []
    for part, weight in zip(groups.split(W, size), groups.split(importance.expand_as(W), size), strict=True):
        rows = max(1, _CACHED_ELEMENTS // (part.shape[1] * part.shape[2]))
        solutions = [
            _search_group(some.flatten(0, 1), weights.flatten(0, 1), grid, levels)
            for some, weights in zip(part.split(rows), weight.split(rows), strict=True)
        ]
        solved.append([torch.cat(values).view(part.shape[:2]) for values in zip(*solutions, strict=True)])
    scale, shift = (torch.cat(values, dim=1) for values in zip(*solved, strict=True))
    return grid.stored(AffineParams(scale, shift / scale))


def _levels(grid: Grid) -> float:
    """Codes on one side of zero: the fewer, the farther are the scales to try from the one that covers the range."""
    if grid.uniform:
        return float(max(-grid.code_range.low, grid.code_range.high))
    return _VECTOR_LEVELS if isinstance(grid.elements, Codebook) else 2.0 ** (grid.bits - 1)


def _search_group(
    W: Float[Tensor, "rows size"], importance: Float[Tensor, "rows size"], grid: Grid, levels: float
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Scale and shift for groups given as rows: `w ≈ scale · code − shift`."""
    if not grid.uniform:
        return _search_table(W, importance, grid, levels)
    low, high = W.aminmax(dim=1, keepdim=True)
    if grid.symmetric:
        shift = torch.zeros_like(low)
        extreme = torch.where(-low >= high, low, high)
        start = extreme / grid.code_range.low
    else:
        shift = -low.clamp(max=0)
        start = (high.clamp(min=0) + shift) / levels
    start = torch.where(start == 0, torch.ones_like(start), start)
    best_scale, best_shift, least = start, shift, torch.full_like(start, torch.inf)
    for delta in torch.linspace(-_REACH, _REACH, _STEPS).tolist():
        codes = ((W + shift) / (start * levels / (levels + delta))).round_().clamp_(*grid.code_range)
        scale, offset = _line(codes, W, importance, grid.symmetric)
        if "zero_point" in grid.packings:
            scale, offset = _through_whole_zero(codes, W, importance, scale, offset, grid)
        error = (importance * (W - scale * codes + offset).square()).sum(dim=1, keepdim=True)
        better = (error < least) & (scale * start > 0)
        least = torch.where(better, error, least)
        best_scale, best_shift = torch.where(better, scale, best_scale), torch.where(better, offset, best_shift)
    return best_scale, best_shift


def _search_table(
    W: Float[Tensor, "rows size"], importance: Float[Tensor, "rows size"], grid: Grid, levels: float
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Scale, and a shift of 0, for groups given as rows and numbers from a table: `w ≈ scale · number(code)`.

    If scales may be negative, the weight of largest magnitude is tried at both ends of an uneven table. Vectors of a
    codebook take longer to find, so fewer scales are tried, which is as good on trained linears.
    """
    elements, steps = grid.elements, _VECTOR_STEPS if isinstance(grid.elements, Codebook) else _STEPS
    low, high = W.aminmax(dim=1, keepdim=True)
    if grid.rule == "extreme":
        extreme = torch.where(-low >= high, low, high)
        starts = [extreme / elements.low, extreme / elements.high]
    else:
        starts = [2 * torch.maximum(-low, high) / (elements.high - elements.low)]
    best, least = torch.full_like(low, SMALLEST_HALF), torch.full_like(low, torch.inf)
    for start in (torch.where(start == 0, torch.ones_like(start), start) for start in starts):
        for delta in torch.linspace(-_REACH, _REACH, steps).tolist():
            numbers = elements.nearest_number(W / (start * levels / (levels + delta)))
            scale, _ = _line(numbers, W, importance, flat=True)
            error = (importance * (W - scale * numbers).square()).sum(dim=1, keepdim=True)
            better = (error < least) & (scale * start > 0)
            least, best = torch.where(better, error, least), torch.where(better, scale, best)
    return best, torch.zeros_like(best)


def _through_whole_zero(
    codes: Float[Tensor, "rows size"],
    W: Float[Tensor, "rows size"],
    importance: Float[Tensor, "rows size"],
    scale: Float[Tensor, "rows 1"],
    shift: Float[Tensor, "rows 1"],
    grid: Grid,
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """The best line whose zero point is a code: the code nearest to the zero point of the given line."""
    zero = (shift / torch.where(scale == 0, torch.ones_like(scale), scale)).round_().clamp_(*grid.code_range)
    scale, _ = _line(codes - zero, W, importance, flat=True)
    return scale, scale * zero


def _line(
    codes: Float[Tensor, "rows size"], W: Float[Tensor, "rows size"], importance: Float[Tensor, "rows size"], flat: bool
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """The best line `scale · code − shift`; through the origin if `flat`, or if its shift would be negative.

    A group with equal codes has no line; it gets a scale of 0, which the search skips.
    """

    def total(values: Tensor) -> Tensor:
        return (importance * values).sum(dim=1, keepdim=True)

    code_square, code_weight = total(codes.square()), total(codes * W)
    through_origin = torch.where(code_square > 0, code_weight / code_square, torch.zeros_like(code_square))
    if flat:
        return through_origin, torch.zeros_like(through_origin)
    code, weight, count = total(codes), total(W), total(torch.ones_like(W))
    spread = count * code_square - code.square()
    scale = torch.where(spread > 0, (count * code_weight - code * weight) / spread, torch.zeros_like(spread))
    shift = torch.where(spread > 0, (scale * code - weight) / count, torch.zeros_like(spread))
    sunk = shift < 0
    return torch.where(sunk, through_origin, scale), torch.where(sunk, torch.zeros_like(shift), shift)
