"""Grids of unknown steps: found where they are, not found where they are not, and through scaled rows and columns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slmquant.core.lattice import best_fits, column_factors, repeated_ratios

EPS = torch.finfo(torch.float32).eps


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def on_grid(rows: int, size: int, codes: int, seed: int = 0) -> Tensor:
    """Normal numbers that were rounded to so many codes between the ends of each row, each with a step of its own."""
    x = numbers(rows, size, seed=seed)
    low, high = x.aminmax(dim=1, keepdim=True)
    step = (high - low) / (codes - 1)
    return low + step * ((x - low) / step).round()


def slow_fit(block: Tensor, most: int) -> tuple[float, int]:
    """The best mean cosine and its number of steps, number by number."""
    low, high = float(block.min()), float(block.max())
    fits = []
    for steps in range(1, most + 1):
        turns = [(float(x) - low) / (high - low) * steps for x in block]
        cosines = sorted(math.cos(2 * math.pi * turn) for turn in turns)
        fits.append((sum(cosines) - 2) / (len(block) - 2))
    best = max(fits)
    return best, 1 + next(index for index, fit in enumerate(fits) if fit > best - 1e-9)


@pytest.mark.parametrize("most", [7, 60])
def test_fits_are_those_of_the_definition(most: int) -> None:
    blocks = numbers(5, 16)
    found = best_fits(blocks, most)

    for number, block in enumerate(blocks):
        fit, steps = slow_fit(block, most)
        assert float(found.fit[number]) == pytest.approx(fit, abs=1e-5)
        assert int(found.steps[number]) == steps


@pytest.mark.parametrize("codes", [3, 16, 32, 200, 256])
def test_rounded_numbers_lie_on_a_grid_of_as_many_steps(codes: int) -> None:
    found = best_fits(on_grid(50, 64, codes))

    assert (found.miss < 1e-3).all()
    assert (found.fit > 0.999).all()
    assert int(found.steps.max()) == codes - 1
    assert ((codes - 1) % found.steps == 0).all()  # a block may happen to use every second code alone


def test_normal_numbers_lie_on_no_grid() -> None:
    found = best_fits(numbers(200, 32))

    assert (found.miss > 0.2).all()
    assert float(found.fit.mean()) < 0.6


def test_noise_lowers_the_fit_as_the_characteristic_function_says() -> None:
    """Of normal noise with a standard deviation of s steps, the mean cosine is exp(−2π² s²)."""
    noise = 0.05
    x = on_grid(400, 128, 16)
    low, high = x.aminmax(dim=1, keepdim=True)
    inner = (x > low) & (x < high)
    moved = x + inner * noise * (high - low) / 15 * numbers(400, 128, seed=1)

    assert float(best_fits(moved, 15).fit.mean()) == pytest.approx(math.exp(-2 * (math.pi * noise) ** 2), abs=0.01)


def test_ratios_repeat_where_codes_do_whatever_rows_and_columns_are_multiplied_by() -> None:
    x = on_grid(500, 32, 16) * (1 + numbers(500, 1, seed=1).abs()) * (1 + numbers(32, seed=2).abs())
    a, b = x[:, 0:8].T, x[:, 8:16].T
    mixed = b[:, torch.randperm(500, generator=torch.Generator().manual_seed(3))]

    assert (repeated_ratios(a, b, EPS) > 0.03).all()
    assert float(repeated_ratios(a, mixed, EPS).mean()) < 0.005
    assert float(repeated_ratios(numbers(8, 500), numbers(8, 500, seed=1), EPS).mean()) < 0.005


def test_rows_with_a_zero_have_no_ratio() -> None:
    a, b = torch.zeros(1, 50), numbers(1, 50)
    a[0, :2] = b[0, :2]

    assert repeated_ratios(a, b, EPS).tolist() == [1.0]
    assert repeated_ratios(torch.zeros(1, 50), b, EPS).tolist() == [0.0]


@pytest.mark.parametrize("codes", [16, 256])
def test_factors_of_columns_are_found_and_the_grid_is_below_them(codes: int) -> None:
    factors = 2 ** (0.5 * torch.rand(32, generator=torch.Generator().manual_seed(1)) - 0.25)
    x = on_grid(2000, 32, codes) * factors

    found = column_factors(x, EPS)

    torch.testing.assert_close(found, factors / factors[0], rtol=2e-6, atol=0)
    assert float((best_fits(x / found).miss < 0.01).float().mean()) > 0.99
    assert float((best_fits(x).miss < 0.01).float().mean()) < 0.01


def test_columns_without_a_factor_are_left_as_they_are() -> None:
    x = numbers(20, 4)
    x[:, 2] = 0.0

    assert column_factors(x, EPS)[2] == 1.0
