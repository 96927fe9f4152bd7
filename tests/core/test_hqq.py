"""HQQ comes close to an exhaustive search of its own objective, and is never worse than the range."""

import pytest
import torch

from slmquant.core.affine import Grid
from slmquant.core.hqq import hqq, shrink
from slmquant.testing.oracles_closed_form import least_shrinkage, scan_zero_points

P = 0.7
GRIDS = (
    Grid(4, False, 16, 16, real_zero_point=True),
    Grid(3, False, 16, 16, real_zero_point=True),
    Grid(2, False, 10, 16, real_zero_point=True),
    Grid(4, False, real_zero_point=True),
    Grid(4, False, per_tensor=True, real_zero_point=True),
)


def weight(rows: int = 6, size: int = 48, seed: int = 0) -> torch.Tensor:
    """Mostly small numbers, and a few that are not."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(rows, size, generator=generator)
    return torch.where(torch.rand(W.shape, generator=generator) < 0.05, 5 * W, W)


def lp_loss(W: torch.Tensor, rounded: torch.Tensor) -> float:
    return float((W - rounded).abs().double().pow(P).sum())


@pytest.mark.parametrize("x", [-0.9, -0.2, 0.0, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("beta", [2.0, 10.0, 100.0])
def test_shrinking_keeps_sign_and_moves_towards_zero(x: float, beta: float) -> None:
    shrunk = float(shrink(torch.tensor([x]), beta, P)[0])

    assert shrunk * x >= 0
    assert abs(shrunk) <= abs(x)


@pytest.mark.parametrize("x", [-5.0, 1.0, 3.0])
def test_shrinking_a_large_error_minimises_the_proximal_objective(x: float) -> None:
    """`|e|ᵖ/p + β/2 (e − x)²`, searched finely; the generalised soft threshold is its solution to first order."""
    shrunk = float(shrink(torch.tensor([x]), 30.0, P)[0])

    assert shrunk == pytest.approx(least_shrinkage(x, 30.0, P), abs=2e-3)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_group_is_worse_than_its_range(grid: Grid) -> None:
    for seed in range(3):
        W = weight(seed=seed)
        affine = hqq(W, grid)
        found, nearest = grid.quantize(W, affine).dequantize(), grid.quantize(W).dequantize()
        size = 48 if grid.per_tensor or grid.group_size > 48 else grid.group_size
        for start in range(0, 48, size):
            stop = min(start + size, 48)
            rows = [slice(None)] if grid.per_tensor else [slice(row, row + 1) for row in range(6)]
            for row in rows:
                part = (row, slice(start, stop))
                assert lp_loss(W[part], found[part]) <= lp_loss(W[part], nearest[part]) * (1 + 1e-6)


@pytest.mark.parametrize("grid", GRIDS[:2], ids=str)
def test_comes_close_to_scanning_every_zero_point(grid: Grid) -> None:
    found = nearest = best = 0.0
    for seed in range(2):
        W = weight(seed=seed)
        found += lp_loss(W, grid.quantize(W, hqq(W, grid)).dequantize())
        nearest += lp_loss(W, grid.quantize(W).dequantize())
        best += scan_zero_points(W, grid, P)

    assert best <= found
    assert found - best < 0.5 * (nearest - best)


def test_a_grid_without_real_zero_points_is_refused() -> None:
    with pytest.raises(ValueError, match="real zero points"):
        hqq(weight(), Grid(4, True, 16, 16))


def test_a_real_zero_point_is_fitted_and_the_scale_is_that_of_the_range() -> None:
    W, grid = weight(), Grid(3, False, 16, 16, real_zero_point=True)
    affine = hqq(W, grid)

    assert torch.equal(affine.scale, grid.fit(W).scale)
    assert not torch.equal(affine.zero_point, grid.fit(W).zero_point)


def test_rows_are_independent_and_bytes_repeat() -> None:
    W, grid = weight(), GRIDS[1]
    order = torch.tensor([3, 1, 5, 0, 2, 4])

    assert torch.equal(hqq(W, grid).zero_point[order], hqq(W[order], grid).zero_point)
    assert torch.equal(hqq(W, grid).zero_point, hqq(W, grid).zero_point)


def test_a_group_of_zeros_stays_zeros() -> None:
    W = weight()
    W[:, :16] = 0
    grid = GRIDS[0]

    assert (grid.quantize(W, hqq(W, grid)).dequantize()[:, :16] == 0).all()


def test_it_does_not_depend_on_the_size_of_the_weights() -> None:
    """Errors are measured in steps, so that one `beta` suits all."""
    W, grid = weight(), GRIDS[3]

    assert torch.allclose(hqq(W, grid).zero_point, hqq(64 * W, grid).zero_point, rtol=1e-5)
