"""The fused straight-through gradient is what autograd finds for the formula written out plainly in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slmquant.core.affine import Grid
from slmquant.core.elements import TABLES, Integers
from slmquant.core.straight_through import (
    Range,
    dithered_tokens,
    fake_quantize,
    fake_quantize_blocks,
    fake_quantize_tokens,
    in_groups,
    out_of_groups,
    quantize,
    range_of,
)
from slmquant.core.tokens import block_codes, token_codes
from tests.narrowed import present

GRIDS = [
    Grid(4),
    Grid(2, False),
    Grid(3, True, 4),
    Grid(4, False, 5),
    Grid(2, True, 8),
    Grid(3, False, per_tensor=True),
    Grid(4, per_tensor=True),
    Grid(4, True, 4, rule="extreme"),
]


def rounded(x: Tensor) -> Tensor:
    """Rounding whose derivative is 1."""
    return x + (x.round() - x).detach()


def plainly(W: Tensor, offset: Tensor, covered: Range, grid: Grid) -> Tensor:
    """`fake_quantize` from its formula, one operation at a time."""
    low, high = (bound[..., None] for bound in covered)
    bottom, top = grid.code_range
    zero_point: Tensor | int
    if grid.rule == "extreme":
        scale, zero_point = torch.where(-low >= high, low, high) / bottom, 0
    elif grid.symmetric:
        scale, zero_point = 2 * torch.maximum(low.abs(), high.abs()) / (top - bottom), 0
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / (top - bottom)
        zero_point = rounded(-low / scale)
    return scale * ((rounded(W / scale + offset) + zero_point).clamp(bottom, top) - zero_point)


def problem(grid: Grid, seed: int) -> tuple[Tensor, Tensor, Range]:
    generator = torch.Generator().manual_seed(seed)
    W = in_groups(torch.randn(6, 20, generator=generator, dtype=torch.float64), grid)
    offset = torch.rand(W.shape, generator=generator, dtype=torch.float64) - 0.5
    low, high = range_of(W)
    return W, offset, Range(0.7 * low, 0.8 * high)  # clipped, so that some codes are clamped


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients_of_weights_offsets_and_ranges(grid: Grid, seed: int) -> None:
    W, offset, covered = problem(grid, seed)
    towards = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed + 9), dtype=torch.float64)
    ours, theirs = ([t.clone().requires_grad_() for t in (W, offset, *covered)] for _ in range(2))

    found = fake_quantize(ours[0], ours[1], Range(*ours[2:]), grid, torch.float64)
    expected = plainly(theirs[0], theirs[1], Range(*theirs[2:]), grid)
    found.backward(towards)
    expected.backward(towards)

    assert torch.allclose(found, expected, rtol=1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(present(mine.grad), present(other.grad), rtol=1e-4, atol=1e-5)  # scales are float32
    assert all(present(t.grad).any() for t in ours[:2])
    assert any(present(t.grad).any() for t in ours[2:])


@pytest.mark.parametrize("grid", [*GRIDS, Grid(4, True, 7, 16), Grid(4, False, 64, 16)], ids=str)
def test_without_offset_and_clipping_it_is_nearest(grid: Grid) -> None:
    W = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    grouped = in_groups(W, grid)
    expected = grid.quantize(W)

    found = quantize(grouped, None, range_of(grouped), grid, W.shape)
    with_zero_offset = quantize(grouped, torch.zeros_like(grouped), range_of(grouped), grid, W.shape)
    dense = out_of_groups(fake_quantize(grouped, None, range_of(grouped), grid, torch.float32), W.shape)

    for each in (found, with_zero_offset):
        assert torch.equal(each.codes, expected.codes)
        assert torch.equal(each.scale, expected.scale)
    assert torch.equal(dense, expected.dequantize())


def test_a_ragged_group_and_its_filling() -> None:
    W = torch.randn(3, 10)

    assert in_groups(W, Grid(4, True, 4)).shape == (3, 3, 4)
    assert torch.equal(out_of_groups(in_groups(W, Grid(4, True, 4)), W.shape), W)


def test_a_group_of_zeros_has_finite_gradients() -> None:
    for grid in (Grid(4, True, 5), Grid(4, False, 5)):
        W = torch.zeros(1, 2, 5, requires_grad=True)
        low, high = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
        fake_quantize(W, None, Range(low, high), grid, torch.float32).sum().backward()
        assert all(torch.isfinite(present(t.grad)).all() for t in (W, low, high))


class TestTokens:
    def test_gradients_reach_the_token_that_sets_the_scale(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 5, 12, generator=generator)
        mine, other = x.clone().requires_grad_(), x.double().requires_grad_()
        weight = torch.randn(12, generator=generator)
        codes, scale = fake_quantize_tokens(mine, Integers.of(4, symmetric=True))
        plain_scale = other.abs().amax(dim=-1, keepdim=True) / 7
        plain_codes = rounded(other / plain_scale)

        ((codes @ weight) * scale[..., 0]).square().sum().backward()
        ((plain_codes @ weight.double()) * plain_scale[..., 0]).square().sum().backward()

        assert torch.allclose(present(mine.grad).double(), present(other.grad), rtol=1e-4, atol=1e-4)

    def test_beyond_a_static_scale_nothing_moves(self) -> None:
        x = torch.tensor([[0.2, 3.0, -9.0]], requires_grad=True)
        codes, _ = fake_quantize_tokens(x, Integers.of(4, symmetric=True), torch.tensor(0.5))
        codes.sum().backward()

        assert torch.equal(present(x.grad), torch.tensor([[2.0, 2.0, 0.0]]))

    def test_codes_are_those_of_the_finished_model(self) -> None:
        x = torch.randn(3, 7)

        found, expected = (f(x, Integers.of(8, symmetric=True)) for f in (fake_quantize_tokens, token_codes))

        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.scale, expected.scale)

    @pytest.mark.parametrize("clip", [1.0, 0.7])
    def test_clipped_tokens_have_the_gradient_of_the_formula(self, clip: float) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 5, 12, generator=generator)
        mine, other = x.clone().requires_grad_(), x.double().requires_grad_()
        towards = torch.randn(4, 5, 12, generator=generator)
        codes, scale = fake_quantize_tokens(mine, Integers.of(4, symmetric=True), clip=clip)
        plain_scale = clip * other.abs().amax(dim=-1, keepdim=True) / 7
        plain_codes = rounded((other / plain_scale).clamp(-8, 7))

        (codes * scale * towards).sum().backward()
        (plain_codes * plain_scale * towards.double()).sum().backward()

        assert torch.allclose(codes.double(), plain_codes.detach(), atol=1e-6)
        assert (codes.abs() == 7).float().mean() > (0.1 if clip < 1 else 0)
        assert torch.allclose(present(mine.grad).double(), present(other.grad), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("clip", [1.0, 0.7])
    def test_a_loss_behind_dithered_tokens_has_the_slope_that_finite_differences_show(self, clip: float) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, 12, generator=generator, dtype=torch.float64, requires_grad=True)
        noise = torch.rand(3, 12, generator=generator, dtype=torch.float64) - 0.5

        assert torch.autograd.gradcheck(lambda x: dithered_tokens(x, Integers.of(4, symmetric=True), noise, clip), x)

    @pytest.mark.parametrize("clip", [1.0, 0.7])
    def test_rounding_has_the_gradient_of_a_dither_that_equals_its_errors(self, clip: float) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 5, 12, generator=generator)
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        towards = torch.randn(4, 5, 12, generator=generator)
        codes, scale = fake_quantize_tokens(mine, Integers.of(4, symmetric=True), clip=clip)
        errors = codes - (x / scale).clamp(-8, 7)
        dithered = dithered_tokens(other, Integers.of(4, symmetric=True), errors.detach(), clip)
        (codes * scale * towards).sum().backward()
        (dithered * towards).sum().backward()

        assert torch.allclose(dithered, codes * scale, atol=1e-5)
        assert torch.allclose(present(mine.grad), present(other.grad), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("two_level", [False, True])
def test_blocks_move_with_their_largest_magnitude(two_level: bool) -> None:
    """Doubled inputs are rounded to the doubled numbers, so along the inputs themselves the slope is the result."""
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    elements = TABLES["E2M1"]
    found = fake_quantize_blocks(x, elements, 8, two_level=two_level)
    codes, scale = block_codes(x.detach(), elements, 8, two_level=two_level)
    found.sum().backward()

    assert torch.equal(found, x.detach() + (codes * scale - x.detach()))
    assert torch.allclose((present(x.grad) * x.detach()).sum(), found.sum(), rtol=1e-4)
    assert not torch.allclose(present(x.grad), torch.ones_like(x))
