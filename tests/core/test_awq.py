"""AWQ's loss is the squared error over the tokens, and the search finds its least."""

import pytest
import torch

from slmquant.core.affine import Grid
from slmquant.core.awq import RATIOS, best_factors, output_loss, powers
from slmquant.testing.oracles_closed_form import mean_squared_output

GRID = Grid(3, True, 8, 16)


def nearest(W: torch.Tensor) -> torch.Tensor:
    return GRID.quantize(W).dequantize()


def problem(rows: int = 8, size: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and inputs of which a few channels are loud."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(100, size, generator=generator) @ torch.randn(size, size, generator=generator)
    X[:, ::7] *= 12
    return torch.randn(rows, size, generator=generator), X


@pytest.mark.parametrize("size", [1, 3, 24, 30])
def test_the_loss_is_the_squared_error_over_the_tokens(size: int) -> None:
    error, X = problem(5, size)

    assert output_loss(error, X.T @ X / len(X)) == pytest.approx(mean_squared_output(error, X), rel=1e-4)


def test_equals_trying_every_power_on_every_token() -> None:
    W, X = problem()
    magnitude = X.abs().mean(0)
    losses = []
    for ratio in RATIOS:
        factors = powers(magnitude, ratio)
        losses.append(mean_squared_output(W - nearest(W * factors) / factors, X))

    found = best_factors(W, X.T @ X / len(X), magnitude, nearest)

    assert found.loss == pytest.approx(min(losses), rel=1e-4)
    assert mean_squared_output(W - nearest(W * found.factors) / found.factors, X) == pytest.approx(found.loss, rel=1e-4)


def test_loud_inputs_gain_on_average_and_none_loses() -> None:
    gains = []
    for seed in range(8):
        W, X = problem(seed=seed)
        found = best_factors(W, X.T @ X / len(X), X.abs().mean(0), nearest)
        gains.append(found.loss / found.unscaled_loss)

    assert max(gains) <= 1
    assert sum(gains) / len(gains) < 0.9


def test_where_nothing_helps_nothing_is_scaled() -> None:
    W, X = problem()

    found = best_factors(W, X.T @ X / len(X), X.abs().mean(0), lambda weight: weight.clone())

    assert (found.factors == 1).all()


def test_factors_are_centred_on_one() -> None:
    factors = powers(torch.tensor([0.01, 0.5, 3.0, 40.0]), 0.6)

    assert float(factors.max() * factors.min()) == pytest.approx(1, rel=1e-5)


def test_channels_that_share_a_row_share_a_factor() -> None:
    W, X = problem()

    def pairs(factors: torch.Tensor) -> torch.Tensor:
        return factors.view(-1, 2).amax(1).repeat_interleave(2)

    found = best_factors(W, X.T @ X / len(X), X.abs().mean(0), nearest, pairs)

    assert torch.equal(found.factors[::2], found.factors[1::2])
    assert (found.factors != 1).any()
