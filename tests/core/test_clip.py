"""The clip search finds, for every group, the ratio that a search token by token finds."""

import pytest
import torch

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.clip import RATIOS, clipped, group_losses
from slmquant.testing.oracles_closed_form import best_clip_ratios, mean_squared_output


def problem(rows: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(60, size, generator=generator) @ torch.randn(size, size, generator=generator)
    W = torch.randn(rows, size, generator=generator)
    return torch.where(torch.rand(W.shape, generator=generator) < 0.1, 4 * W, W), X


@pytest.mark.parametrize("group_size", [8, 7, 24], ids=["even", "ragged", "whole"])
def test_a_groups_loss_is_its_output_error_over_the_tokens(group_size: int) -> None:
    error, X = problem(5, 24)

    losses = group_losses(error, X.T @ X / len(X), group_size)

    for row in range(5):
        for group, start in enumerate(range(0, 24, group_size)):
            part = slice(start, start + group_size)
            expected = mean_squared_output(error[row : row + 1, part], X[:, part])
            assert float(losses[row, group]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("grid", [Grid(3, True, 8, 16), Grid(3, False, 8, 16), Grid(4, True, 7, 16), Grid(2)], ids=str)
def test_equals_trying_every_ratio_on_every_token(grid: Grid) -> None:
    W, X = problem(5, 24)
    ratios = best_clip_ratios(W, X, grid, RATIOS)
    low, high = groups.bounds(W, min(grid.group_size, 24))

    expected = grid.cover(groups.Bounds(low * ratios, high * ratios))

    assert torch.allclose(clipped(W, X.T @ X / len(X), grid).scale, expected.scale, rtol=1e-3)


def test_no_group_loses_by_it() -> None:
    W, X = problem(6, 40)
    H, grid = X.T @ X / len(X), Grid(3, True, 8, 16)

    after = group_losses(W - grid.quantize(W, clipped(W, H, grid)).dequantize(), H, 8)
    before = group_losses(W - grid.quantize(W).dequantize(), H, 8)

    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.9 * before.sum()


def test_rows_are_independent() -> None:
    W, X = problem(6, 24)
    H, grid, order = X.T @ X / len(X), Grid(3, True, 8, 16), torch.tensor([3, 1, 5, 0, 2, 4])

    assert torch.equal(clipped(W, H, grid).scale[order], clipped(W[order], H, grid).scale)
