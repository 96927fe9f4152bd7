"""Differentiable rounding: exact in the forward pass, and the identity in the backward pass.

Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv 1308.3432: the
straight-through estimate. A code `c = clamp(round(w/s + v) + z)` has slope 1 in the argument of the clamp inside its
limits and slope 0 beyond them, so with `ŵ = s (c − z)` and `m = 1` if nothing was clamped, else 0,

    ∂ŵ/∂w = m      ∂ŵ/∂v = s m      ∂ŵ/∂s = (c − z) − m w/s      ∂ŵ/∂z = −s (1 − m)

and scale and zero point are in turn functions of the range that they cover. The whole chain is one hand-written
autograd function: it stores three bytes per weight instead of five float32 tensors, and makes one pass over each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.core import groups
from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.elements import Elements
from slmquant.core.scales import AffineParams
from slmquant.core.tokens import TokenCodes, block_codes, token_codes


class Range(NamedTuple):
    """The range that the grid of each group must cover.

    Attributes:
        low: Smallest value; an asymmetric grid treats a positive one as 0.
        high: Largest value; an asymmetric grid treats a negative one as 0.
    """

    low: Float[Tensor, "rows groups"]
    high: Float[Tensor, "rows groups"]


def in_groups(W: Float[Tensor, "out in"], grid: Grid) -> Float[Tensor, "rows groups size"]:
    """Reshape a weight so that groups are a separate axis; a shorter last group is padded with zeros.

    A weight with one scale becomes one row with one group.
    """
    if grid.per_tensor:
        return W.reshape(1, 1, -1)
    size = min(grid.group_size, W.shape[1])
    filled: Tensor = F.pad(W, (0, -W.shape[1] % size))
    return filled.reshape(W.shape[0], -1, size)


def out_of_groups(values: Float[Tensor, "rows groups size"], shape: torch.Size) -> Float[Tensor, "out in"]:
    """Undo `in_groups`."""
    return values.reshape(shape[0], -1)[:, : shape[1]]


def range_of(W: Float[Tensor, "rows groups size"]) -> Range:
    """The range of each group; differentiable, through one weight at each end."""
    if not W.requires_grad:
        return Range(*torch.aminmax(W, dim=2))
    return Range(W.min(dim=2).values, W.max(dim=2).values)


def fake_quantize(
    W: Float[Tensor, "rows groups size"],
    offset: Float[Tensor, "rows groups size"] | None,
    covered: Range,
    grid: Grid,
    dtype: torch.dtype,
) -> Float[Tensor, "rows groups size"]:
    """Round `W` on a grid that covers given ranges; differentiable in `W`, offset and ranges.

    Args:
        W: A weight in groups.
        offset: Added before rounding, in units of codes; None for nothing.
        covered: The ranges; with those of `W` and no offset, the result is rounding to nearest.
        grid: Integers; if symmetric, with the rule `span` or `extreme`.
        dtype: Dtype of the result; gradients are float32.
    """
    result: Tensor = _FakeQuantize.apply(W, offset, covered.low, covered.high, grid, dtype)  # type: ignore[no-untyped-call]  # unannotated
    return result


@torch.no_grad()
def quantize(
    W: Float[Tensor, "rows groups size"],
    offset: Float[Tensor, "rows groups size"] | None,
    covered: Range,
    grid: Grid,
    shape: torch.Size,
) -> QuantizedTensor:
    """The codes of the result of `fake_quantize`; `shape` is the shape of the weight, `(out, in)`."""
    affine = grid.cover(groups.Bounds(*covered))
    codes = _codes(W, offset, affine, grid).clamp_(*_limits(grid))
    return grid.assemble(out_of_groups(codes, shape), affine)


def fake_quantize_tokens(
    x: Float[Tensor, "*tokens in"],
    elements: Elements,
    scale: Float[Tensor, ""] | None = None,
    clip: float = 1.0,
) -> TokenCodes:
    """`core.tokens.token_codes`, differentiable in `x`, including through scales computed per token.

    Args:
        x: Activations.
        elements: The numbers that codes stand for.
        scale: A calibrated scale for the whole tensor; None computes one per token.
        clip: Share of a token's largest magnitude that its scale covers; larger values are clamped.
    """
    codes, token_scale = _FakeQuantizeTokens.apply(x, elements, scale, clip)  # type: ignore[no-untyped-call]  # unannotated
    return TokenCodes(codes, token_scale)


def fake_quantize_blocks(
    x: Float[Tensor, "*tokens in"], elements: Elements, size: int, *, two_level: bool
) -> Float[Tensor, "*tokens in"]:
    """The dequantized `core.tokens.block_codes`, differentiable in `x`.

    In the gradient, the rounding error of an element is proportional to the largest magnitude of its block.
    """
    with torch.no_grad():
        codes, scale = block_codes(x, elements, size, two_level=two_level)
        error = codes * scale - x
    return x + _in_proportion(error, x, size)


def dithered_tokens(
    x: Float[Tensor, "*tokens in"], elements: Elements, noise: Float[Tensor, "*tokens in"], clip: float = 1.0
) -> Float[Tensor, "*tokens in"]:
    """Tokens with noise instead of rounding errors: clipped like `fake_quantize_tokens`, plus the step of the grid
    times `noise`.

    Rounding errors of whole numbers are distributed like `noise` drawn uniformly from (−½, ½). A loss of dithered
    tokens is differentiable in `x`, unlike a loss of rounded tokens, and finite differences show its slope.
    """
    reach = clip * x.abs().amax(dim=-1, keepdim=True)
    return torch.clamp(x, reach * (elements.low / elements.high), reach) + noise * (reach / elements.high)


def _in_proportion(error: Tensor, x: Tensor, size: int) -> Tensor:
    """`error` as a function of `x`: proportional to the largest magnitude of each block."""
    filled = F.pad(x.abs(), (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))
    largest = filled.amax(dim=-1)
    relative = largest / torch.where(largest == 0, 1, largest).detach()
    scaled: Tensor = error * relative.repeat_interleave(size, dim=-1)[..., : x.shape[-1]]
    return scaled


def _limits(grid: Grid) -> tuple[float, float]:
    return grid.elements.low, grid.elements.high


def _codes(W: Tensor, offset: Tensor | None, affine: AffineParams, grid: Grid) -> Tensor:
    """Codes rounded but not yet clamped; without an offset, the same arithmetic as `Grid.encode`."""
    scale, zero_point = (values[..., None] for values in affine)
    codes = W / scale if offset is None else torch.addcdiv(offset, W, scale)
    return (codes if grid.symmetric else codes.add_(zero_point)).round_()


class _FakeQuantize(Function):
    """`fake_quantize`, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, offset: Tensor | None, low: Tensor, high: Tensor, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        affine = grid.cover(groups.Bounds(low, high))
        scale, zero_point = (values[..., None] for values in affine)
        unclamped = _codes(W, offset, affine, grid)
        codes = unclamped.clamp(*_limits(grid))
        clamped = unclamped.sub_(codes).abs_().clamp_(max=1)  # 0 or 1 as numbers, much faster here than booleans
        if not grid.symmetric:
            codes.sub_(zero_point)
        ctx.save_for_backward(W, low, high, affine.scale, codes.bfloat16(), clamped.to(torch.int8))
        ctx.grid = grid
        return codes.mul_(scale).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        W, low, high, scale, codes, clamped = ctx.saved_tensors
        wants_weight, wants_offset, wants_low, wants_high = ctx.needs_input_grad[:4]
        gradient = gradient.to(W.dtype)
        kept = torch.addcmul(gradient, gradient, clamped.to(W.dtype), value=-1)
        of_low = of_high = None
        if wants_low or wants_high:
            product = codes.to(W.dtype).mul_(gradient)
            of_scale = product.sum(dim=2) - torch.mul(kept, W, out=product).sum(dim=2) / scale
            if ctx.grid.symmetric:
                of_low, of_high = _through_symmetric_range(of_scale, low, high, ctx.grid)
            else:
                of_zero_point = scale * (kept.sum(dim=2) - gradient.sum(dim=2))
                of_low, of_high = _through_asymmetric_range(of_scale, of_zero_point, low, high, scale, ctx.grid)
        of_offset = None
        if wants_offset:
            of_offset = kept * scale[..., None] if wants_weight else kept.mul_(scale[..., None])
        return kept if wants_weight else None, of_offset, of_low, of_high, None, None


def _through_symmetric_range(of_scale: Tensor, low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Gradient of `scale = 2 max(|low|, |high|) / steps`: goes to the larger magnitude, equal ones share it.

    With the rule `extreme`, the larger end falls on the lowest code: `scale = end / lowest code`, with its sign.
    """
    if grid.rule == "extreme":
        of_end, lower = of_scale / grid.elements.low, -low >= high
        return of_end * lower, of_end * ~lower
    of_span = of_scale * (2 / _steps(grid))
    lead = low.abs() - high.abs()
    share = (lead.sign() + 1) / 2
    return of_span * share * low.sign(), of_span * (1 - share) * high.sign()


def _through_asymmetric_range(
    of_scale: Tensor, of_zero_point: Tensor, low: Tensor, high: Tensor, scale: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Gradient of `scale = (high − low) / steps`, `zero_point = −low / scale`, for a range widened to include 0."""
    of_scale = of_scale + of_zero_point * low.clamp(max=0) / scale.square()
    of_low = -of_zero_point / scale - of_scale / _steps(grid)
    return of_low * (low < 0), of_scale / _steps(grid) * (high > 0)


def _steps(grid: Grid) -> float:
    return grid.elements.high - grid.elements.low


class _FakeQuantizeTokens(Function):
    """`fake_quantize_tokens`, with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, elements: Elements, scale: Tensor | None, clip: float) -> tuple[Tensor, Tensor]:
        codes, found = token_codes(x, elements, scale, clip)
        ctx.save_for_backward(x, found)
        ctx.elements, ctx.dynamic, ctx.clip = elements, scale is None, clip
        return codes, found

    @staticmethod
    def backward(ctx: Any, of_codes: Tensor, of_scale: Tensor) -> tuple[Tensor, None, None, None]:
        x, scale = ctx.saved_tensors
        of_x = of_codes / scale
        steps, low, high = x / scale, ctx.elements.low, ctx.elements.high
        if not ctx.dynamic:
            return of_x * ((steps > low - 0.5) & (steps < high + 0.5)), None, None, None
        if ctx.clip < 1:
            of_x = of_x * ((steps >= low) & (steps <= high))
        largest = x.abs().argmax(dim=-1, keepdim=True)
        through = of_scale - torch.linalg.vecdot(of_x, x)[..., None] / scale
        of_largest = through * x.gather(-1, largest).sign() * (ctx.clip / high)
        return of_x.scatter_add(-1, largest, of_largest.to(of_x.dtype)), None, None, None
