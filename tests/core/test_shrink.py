"""The authors' search for scales, against a loop over groups and ratios."""

import pytest
import torch

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.shrink import RATIOS, shrunk

GRIDS = [Grid(4, True, 8, 16), Grid(3, False, 7, 16), Grid(4), Grid(4, True, 8, 16, rule="extreme")]


def weight(rows: int = 5, columns: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(rows, columns, generator=generator)
    return torch.where(torch.rand(W.shape, generator=generator) < 0.1, 4 * W, W)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_group_covers_the_share_of_its_range_that_errs_least(grid: Grid) -> None:
    W = weight()
    size = min(grid.group_size, W.shape[1])
    found = shrunk(W, grid)

    for row in range(len(W)):
        for group, start in enumerate(range(0, W.shape[1], size)):
            part = W[row : row + 1, start : start + size]
            low, high = groups.bounds(part, size)
            tried = [grid.cover(groups.Bounds(low * ratio, high * ratio)) for ratio in RATIOS]
            losses = [float((part - grid.quantize(part, affine).dequantize()).abs().pow(2.4).sum()) for affine in tried]
            best = tried[losses.index(min(losses))]
            assert float(found.scale[row, group]) == float(best.scale)
            assert float(found.zero_point[row, group]) == float(best.zero_point)


def test_there_are_eighty_steps_down_to_a_fifth() -> None:
    assert len(RATIOS) == 80
    assert (RATIOS[0], round(RATIOS[-1], 2)) == (1.0, 0.21)


def test_what_is_searched_together_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    W, grid = weight(rows=40), Grid(3, False, 8, 16)
    at_once = shrunk(W, grid)
    monkeypatch.setattr("slmquant.core.shrink._CACHED_ELEMENTS", 3 * W.shape[1])

    in_parts = shrunk(W, grid)

    assert torch.equal(in_parts.scale, at_once.scale)
    assert torch.equal(in_parts.zero_point, at_once.zero_point)


def test_scales_that_depend_on_each_other_are_fitted() -> None:
    W, grid = weight(), Grid(4, per_tensor=True)

    assert torch.equal(shrunk(W, grid).scale, grid.fit(W).scale)
