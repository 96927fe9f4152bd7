"""Smoothing factors follow equation 4 of the paper."""

import pytest
import torch

from slmquant.core.smooth import smoothing_factors


def test_equal_the_paper_at_every_channel() -> None:
    act, weight = torch.tensor([8.0, 2.0, 50.0]), torch.tensor([0.5, 2.0, 0.1])

    found = smoothing_factors(act, weight, 0.5)

    assert found.tolist() == pytest.approx([(8 / 0.5) ** 0.5, 1.0, (50 / 0.1) ** 0.5])


def test_alpha_is_who_bears_the_range() -> None:
    act, weight = torch.rand(9) + 0.5, torch.rand(9) + 0.5

    assert torch.allclose(act / smoothing_factors(act, weight, 1.0), torch.ones(9))
    assert torch.allclose(weight * smoothing_factors(act, weight, 0.0), torch.ones(9))
    half = smoothing_factors(act, weight, 0.5)
    assert torch.allclose(act / half, weight * half)


def test_idle_channels_are_left_alone() -> None:
    found = smoothing_factors(torch.tensor([0.0, 3.0, 2.0]), torch.tensor([1.0, 0.0, 2.0]), 0.5)

    assert found.tolist() == [1, 1, 1]


def test_alpha_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        smoothing_factors(torch.ones(2), torch.ones(2), 1.5)
