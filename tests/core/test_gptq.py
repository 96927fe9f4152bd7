"""GPTQ equals its definition, and does what it promises."""

from inspect import unwrap
from typing import get_args

import pytest
import torch

from slmquant.core import hessian
from slmquant.core.affine import Grid
from slmquant.core.gptq import Scales, column_order, factors, gptq
from slmquant.core.kquant import search
from slmquant.core.shrink import shrunk
from slmquant.errors import NumericalError
from slmquant.testing.oracles import best_on_grid, refit_and_round


def problem(rows: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator)
    X = torch.randn(8 * size, size, generator=generator) @ mix
    H = X.T @ X / len(X)
    return torch.randn(rows, size, generator=generator), (H + H.T) / 2


def damped(H: torch.Tensor, damp: float) -> torch.Tensor:
    return H.double() + damp * H.diagonal().double().mean() * torch.eye(len(H), dtype=torch.float64)


def loss(W: torch.Tensor, rounded: torch.Tensor, H: torch.Tensor) -> float:
    error = (W - rounded).double()
    return float((error @ H.double() * error).sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(
    "grid",
    [
        Grid(4),
        Grid(3, False),
        Grid(4, True, 4, 16),
        Grid(4, False, 5, 16),
        Grid(2, True, 8, 16),
        Grid(4, per_tensor=True),
    ],
    ids=str,
)
def test_equals_refitting_by_least_squares(grid: Grid, act_order: bool, seed: int) -> None:
    W, H = problem(6, 14, seed)
    order = torch.argsort(H.diagonal(), descending=True, stable=True).tolist() if act_order else list(range(14))
    static = act_order or grid.group_size >= 14
    expected = refit_and_round(W, damped(H, 0.01), grid, order, static)

    found = gptq(W, H, grid, damp=0.01, act_order=act_order).dequantize()

    assert torch.allclose(found.double(), expected, atol=1e-5)


SEARCHED = [Grid(4, True, 8, 16), Grid(3, False, 6, 16), Grid(4, True, 8, 16, rule="extreme"), Grid(4)]


@pytest.mark.parametrize("grid", SEARCHED, ids=str)
def test_scales_of_least_error_come_from_the_weight_alone(grid: Grid) -> None:
    W, H = problem(6, 24, 0)

    found = gptq(W, H, grid, scales="mse")

    assert torch.equal(found.scale, grid.quantize(W, shrunk(W, grid)).scale)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", SEARCHED, ids=str)
def test_searched_scales_weigh_a_column_by_its_curvature_once_later_ones_have_adapted(
    grid: Grid, act_order: bool
) -> None:
    W, H = problem(6, 24, 0)
    order = torch.argsort(H.diagonal(), descending=True, stable=True) if act_order else torch.arange(24)
    importance = torch.empty(24)
    for place, column in enumerate(order):  # the Schur complement, from the inverse of what is left
        left = order[place:]
        importance[column] = 1 / torch.linalg.inv(damped(H, 0.01)[left][:, left])[0, 0]

    found = gptq(W, H, grid, damp=0.01, act_order=act_order, scales="loss")

    assert torch.allclose(found.scale, search(W, importance[None], grid).scale, rtol=1e-3)


@pytest.mark.parametrize("grid", SEARCHED, ids=str)
def test_searched_scales_lose_less_on_average(grid: Grid) -> None:
    lost = torch.zeros(3)
    for seed in range(20):
        W, H = problem(16, 24, seed)
        for place, scales in enumerate(get_args(Scales)):
            rounded = gptq(W, H, grid, damp=0.01, act_order=True, scales=scales)
            lost[place] += loss(W, rounded.dequantize(), H) / loss(W, torch.zeros_like(W), H)

    from_range, least_error, least_loss = lost
    assert least_loss < least_error
    assert least_loss < 0.98 * from_range


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathering updates over 128 columns is an order of summation, not another algorithm."""
    W, H = problem(8, 300, 0)
    grid = Grid(4, True, 48, 16)
    in_blocks = gptq(W, H, grid)
    monkeypatch.setattr("slmquant.core.gptq._BLOCK", 1000)

    at_once = gptq(W, H, grid)

    assert (in_blocks.codes == at_once.codes).float().mean() > 0.999
    assert loss(W, in_blocks.dequantize(), H) == pytest.approx(loss(W, at_once.dequantize(), H), rel=1e-3)


def test_a_diagonal_hessian_makes_it_nearest_rounding() -> None:
    W, _ = problem(8, 40, 0)
    H = torch.diag(torch.rand(40) + 0.1)
    for grid in (Grid(4), Grid(3, False, 16, 16)):
        assert torch.equal(gptq(W, H, grid).codes, grid.quantize(W).codes)


def test_beats_nearest_rounding_on_average() -> None:
    gains = []
    for seed in range(10):
        W, H = problem(16, 48, seed)
        grid = Grid(4, True, 16, 16)
        gains.append(loss(W, gptq(W, H, grid).dequantize(), H) / loss(W, grid.quantize(W).dequantize(), H))

    assert sum(gains) / len(gains) < 0.7


def test_is_close_to_the_best_codes_there_are() -> None:
    """Against all 3^7 codings: never better, on average within twice the optimum where nearest is far off."""
    ours, nearest = [], []
    for seed in range(8):
        W, H = problem(1, 7, seed)
        grid = Grid(2)
        scale = float(grid.fit(W).scale)
        _, least = best_on_grid(W[0].double(), H.double(), scale, range(-2, 2))
        ours.append(loss(W, gptq(W, H, grid, damp=1e-6).dequantize(), H) / least)
        nearest.append(loss(W, grid.quantize(W).dequantize(), H) / least)

    assert min(ours) >= 1 - 1e-6
    assert sum(ours) < 0.7 * sum(nearest)


def test_permuting_output_channels_commutes() -> None:
    W, H = problem(10, 32, 3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))

    assert torch.equal(gptq(W[order], H, Grid(4)).codes, gptq(W, H, Grid(4)).codes[order])


def test_an_input_that_is_never_active_gets_no_weight() -> None:
    W, H = problem(4, 12, 0)
    H[5, :] = H[:, 5] = 0

    assert (gptq(W, H, Grid(4, True, 4, 16)).dequantize()[:, 5] == 0).all()


def test_too_few_tokens_are_damped_not_fatal() -> None:
    W, _ = problem(4, 32, 0)
    X = torch.randn(3, 32)

    assert torch.isfinite(gptq(W, X.T @ X, Grid(4), damp=0.0).dequantize()).all()


def test_a_hessian_with_nan_is_named() -> None:
    W, H = problem(4, 8, 0)
    H[2, 2] = float("nan")

    with pytest.raises(NumericalError, match="not finite"):
        gptq(W, H, Grid(4))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="8 × 8 Hessian"):
        unwrap(column_order)(
            torch.zeros(2, 8), torch.eye(9), act_order=False
        )  # past the check of shapes that tests have


@pytest.mark.parametrize("act_order", [True, False])
def test_factors_of_a_hessian_serve_any_weight_and_grid(act_order: bool) -> None:
    W, H = problem(6, 24, 3)
    H[5], H[:, 5] = 0, 0
    known = factors(H, act_order=act_order)
    for grid in (Grid(4), Grid(3, symmetric=False, group_size=8)):
        expected = gptq(W, H, grid, act_order=act_order, scales="loss")
        assert torch.equal(gptq(W, known, grid, act_order=act_order, scales="loss").dequantize(), expected.dequantize())


class TestHessian:
    def test_panels_make_the_full_product(self) -> None:
        X = torch.randn(50, 37)
        H = torch.zeros(37, 37)
        hessian.add_outer_(H, X[:20])
        hessian.add_outer_(H, X[20:])

        assert torch.allclose(hessian.finish_(H, 50), X.T @ X / 50, atol=1e-5)

    def test_bfloat16_inputs_give_nearly_the_same(self) -> None:
        """The solver's loss under the exact Hessian is what matters."""
        losses = []
        for seed in range(3):
            W, _ = problem(8, 48, seed)
            X = (torch.randn(640, 48) @ torch.randn(48, 48) * torch.logspace(-1, 1, 48)).bfloat16()
            exact = X.float().T @ X.float() / len(X)
            H = torch.zeros(48, 48)
            for part in X.split(32):
                hessian.add_outer_(H, part)
            coarse = gptq(W, hessian.finish_(H, len(X)), Grid(4, True, 16, 16), act_order=True)
            fine = gptq(W, exact, Grid(4, True, 16, 16), act_order=True)
            losses.append(loss(W, coarse.dequantize(), exact) / loss(W, fine.dequantize(), exact))

            assert torch.allclose(H, exact, rtol=0.01, atol=1e-3 * float(exact.abs().max()))
        assert sum(losses) / len(losses) < 1.02

    def test_the_factor_is_that_of_the_inverse(self) -> None:
        _, H = problem(1, 20, 0)
        U = hessian.inverse_cholesky(H, 0.01)

        assert torch.equal(U, torch.triu(U))
        assert torch.allclose(U.T @ U, torch.linalg.inv(damped(H, 0.01)), rtol=1e-8)
