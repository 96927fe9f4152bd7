"""What AutoRound and OmniQuant learn of one weight, against exhaustive search and against nearest rounding."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from slmquant.core.affine import Grid
from slmquant.core.kquant import search
from slmquant.core.learned_clip import ClipLogits
from slmquant.core.scales import AffineParams
from slmquant.core.signround import LearnedRounding
from tests.narrowed import present


def problems(size: int = 6) -> tuple[Tensor, Tensor]:
    """Rows of weights, and for each the Hessian of its own correlated inputs."""
    weights, hessians = [], []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn(64, size, generator=generator) @ torch.randn(size, size, generator=generator)
        weights.append(torch.randn(1, size, generator=generator))
        hessians.append(X.T @ X / len(X))
    return torch.cat(weights), torch.stack(hessians)


def damage(found: Tensor, W: Tensor, H: Tensor) -> Tensor:
    """The loss of each row."""
    error = found - W
    return torch.einsum("ri,rij,rj->r", error, H, error)


def learned(
    W: Tensor, H: Tensor, grid: Grid, steps: int = 200, start: AffineParams | None = None
) -> tuple[Tensor, float]:
    """The loss of each row's best state of signed gradient descent, and how far its offsets went.

    Rows do not see each other: the sign of a gradient is that of its own row's loss.
    """
    rounding, best = LearnedRounding(W, grid, start), torch.full((len(W),), torch.inf)
    for step in range(steps):
        losses = damage(rounding.dense(torch.float32), W, H)
        best = torch.minimum(best, losses.detach())
        losses.sum().backward()
        rounding.step_((1 - step / steps) / steps)
    return best, float(rounding._offset.detach().abs().max())


def best_up_or_down(W: Tensor, H: Tensor, grid: Grid) -> Tensor:
    """The least loss of each row over all ways to round each weight up or down, with the nearest's scales."""
    affine = grid.fit(W)
    position = W / affine.scale + affine.zero_point
    low, high = grid.code_range
    least = torch.full((len(W),), torch.inf)
    for ups in itertools.product((0, 1), repeat=W.shape[1]):
        codes = (position.floor() + torch.tensor(ups)).clamp(low, high)
        least = torch.minimum(least, damage(affine.scale * (codes - affine.zero_point), W, H))
    return least


@pytest.mark.parametrize("grid", [Grid(3), Grid(3, False), Grid(2, False)], ids=["W3", "W3-asym", "W2-asym"])
def test_signed_descent_comes_close_to_the_best_rounding(grid: Grid) -> None:
    W, H = problems()
    nearest, best = damage(grid.quantize(W).dequantize(), W, H), best_up_or_down(W, H, grid)

    found, reach = learned(W, H, grid)

    assert (found <= nearest * (1 + 1e-5)).all()
    assert reach <= 0.5
    assert found.sum() < nearest.sum() / 2
    assert found.sum() < 1.3 * best.sum()  # it may even be below: ranges are learned as well


STARTS = [Grid(4), Grid(3, True, 5), Grid(3, False, 5), Grid(4, True, 10, 16, rule="extreme"), Grid(4, False, 8, 16)]


@pytest.mark.parametrize("grid", STARTS, ids=str)
def test_it_starts_from_searched_scales_and_their_signs(grid: Grid) -> None:
    """Negative scales, and those above the range's own, included."""
    W = torch.randn(8, 20, generator=torch.Generator().manual_seed(3))
    affine = search(W, torch.ones(1, 20), grid)
    rounding = LearnedRounding(W, grid, affine)
    found, expected = rounding.quantized(), grid.quantize(W, affine)

    assert found.grid == grid
    assert torch.allclose(found.scale, expected.scale, rtol=1e-3 if grid.scale_bits == 16 else 1e-6)
    assert torch.allclose(found.dequantize(), expected.dequantize(), atol=1e-3)
    assert torch.allclose(rounding.dense(torch.float32), expected.dequantize(), atol=1e-3)
    assert not torch.allclose(expected.scale, grid.fit(W).scale, rtol=1e-2)
    if grid.symmetric:
        assert (expected.scale < 0).any()
        assert (expected.scale > 0).any()


@pytest.mark.parametrize("grid", [Grid(3), Grid(3, False), Grid(2, False)], ids=["W3", "W3-asym", "W2-asym"])
def test_from_searched_scales_it_descends_as_well(grid: Grid) -> None:
    W, H = problems()
    affine = search(W, H.diagonal(dim1=1, dim2=2), grid)
    begun = damage(grid.quantize(W, affine).dequantize(), W, H)

    found, reach = learned(W, H, grid, start=affine)

    assert (found <= begun * (1 + 1e-5)).all()
    assert reach <= 0.5
    assert found.sum() < 0.7 * begun.sum()


def test_no_gradient_no_step() -> None:
    W, _ = problems()
    rounding = LearnedRounding(W, Grid(4))
    rounding.step_(0.5)

    assert torch.equal(rounding.quantized().codes, Grid(4).quantize(W).codes)


@pytest.mark.parametrize(
    "grid", [Grid(4), Grid(3, False, 5, 16), Grid(2, True, 4, 16), Grid(4, per_tensor=True)], ids=str
)
def test_without_clipping_weights_are_rounded_to_nearest(grid: Grid) -> None:
    W = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    expected = grid.quantize(W)
    unclipped = ClipLogits.filled(W, grid, torch.inf)
    found = unclipped.quantized(W, grid)

    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(unclipped.dense(W, grid, torch.float32), expected.dequantize())


def test_clipping_halves_the_range_where_it_says_so() -> None:
    W = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    halved = ClipLogits.filled(W, Grid(4), 0.0).quantized(W, Grid(4))

    assert torch.allclose(halved.scale, Grid(4).quantize(W).scale / 2)


def test_gradients_reach_the_weight_through_its_range() -> None:
    """Scaling a whole group scales its grid, so codes stay and the result is proportional."""
    W = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    factor = torch.ones((), requires_grad=True)
    dense = ClipLogits.filled(W, Grid(3), 4.0).dense(W * factor, Grid(3), torch.float32)
    towards = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1))
    (dense * towards).sum().backward()

    assert torch.allclose(present(factor.grad), (dense * towards).sum(), rtol=1e-4)
