"""Moments against their definitions, and effective ranks of matrices whose eigenvalues are known."""

from __future__ import annotations

import pytest
import torch

from slmquant.core.moments import Reach, effective_rank, reach, times_median


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_figures_are_those_of_the_definitions() -> None:
    x = numbers(400, 30) * 3.0
    exact = x.double()

    found = reach(x)

    assert found.rms == pytest.approx(float(exact.square().mean().sqrt()))
    assert found.largest == float(x.abs().max())
    assert found.kurtosis == pytest.approx(float(exact.pow(4).mean() / exact.square().mean() ** 2))
    assert found.kurtosis == pytest.approx(3.0, abs=0.3)


def test_the_reach_of_parts_is_that_of_the_whole() -> None:
    x = numbers(64, 16)
    x[5, 3] = -40.0
    parts = reach(x[:20]) + reach(x[20:20]) + reach(x[20:])
    whole = reach(x)

    assert (parts.count, parts.largest) == (whole.count, 40.0)
    assert parts.kurtosis == pytest.approx(whole.kurtosis)
    assert whole.kurtosis > 100


def test_nothing_and_zeros_have_no_figures() -> None:
    assert Reach().rms == Reach().kurtosis == 0.0
    assert reach(torch.zeros(3, 3)).kurtosis == 0.0


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_equal_eigenvalues_count_themselves(rank: int) -> None:
    directions = torch.linalg.qr(numbers(12, 12)).Q[:, :rank]

    assert effective_rank(1e6 * directions @ directions.T) == pytest.approx(rank, rel=1e-4)


def test_the_effective_rank_is_that_of_the_eigenvalues() -> None:
    x = numbers(50, 20) * torch.linspace(0.1, 3, 20)
    H = x.T @ x
    eigenvalues = torch.linalg.eigvalsh(H.double())

    assert effective_rank(H) == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()), rel=1e-5)
    assert effective_rank(torch.zeros(4, 4)) == 0.0


def test_dead_channels_do_not_move_the_median() -> None:
    assert times_median(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 50.0])).tolist() == [0, 0, 0, 0.5, 1, 25]
    assert times_median(torch.zeros(3)).tolist() == [0, 0, 0]
