"""GPTAQ equals its definition, column by column, and comes closer to the full-precision output than GPTQ."""

from __future__ import annotations

from inspect import unwrap
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from slmquant.core.affine import Grid
from slmquant.core.gptaq import gptaq
from slmquant.core.gptq import gptq
from slmquant.testing.oracles_sequential import make_up_and_round


class Problem(NamedTuple):
    W: Tensor
    X: Tensor
    exact: Tensor

    @property
    def H(self) -> Tensor:
        return self.X.T @ self.X / len(self.X)

    @property
    def cross(self) -> Tensor:
        return (self.exact - self.X).T @ self.X / len(self.X)

    def loss(self, rounded: Tensor) -> float:
        """Squared distance of what the rounded weight gives behind quantized blocks from what is wanted."""
        return float((self.X @ rounded.T - self.exact @ self.W.T).square().sum())


def problem(rows: int, size: int, seed: int, shift: float = 0.2) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator)
    exact = torch.randn(12 * size, size, generator=generator) @ mix
    # The quantized blocks before make errors that go with their inputs, and others.
    turn = torch.randn(size, size, generator=generator) / size**0.5
    X = exact + shift * (exact @ turn + 0.3 * torch.randn(exact.shape, generator=generator))
    return Problem(torch.randn(rows, size, generator=generator), X, exact)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [Grid(4), Grid(3, False), Grid(4, True, 4, 16)], ids=str)
def test_equals_least_squares_at_each_column(grid: Grid, act_order: bool, seed: int) -> None:
    p = problem(6, 14, seed)
    order = torch.argsort(p.H.diagonal(), descending=True, stable=True).tolist() if act_order else list(range(14))
    static = act_order or grid.group_size >= 14
    expected = make_up_and_round(p.W, p.X, p.exact, 0.01, grid, order, static)

    found = gptaq(p.W, p.H, p.cross, grid, damp=0.01, act_order=act_order).dequantize()

    assert torch.allclose(found.double(), expected, atol=1e-4)


@pytest.mark.parametrize("act_order", [False, True])
def test_with_equal_inputs_it_is_gptq(act_order: bool) -> None:
    p = problem(6, 300, 0, shift=0.0)
    grid = Grid(4, True, 48, 16)

    found = gptaq(p.W, p.H, torch.zeros_like(p.H), grid, act_order=act_order)

    assert torch.equal(found.codes, gptq(p.W, p.H, grid, act_order=act_order).codes)


@pytest.mark.parametrize("size", [40, 300])
def test_comes_closer_to_the_full_precision_output_than_gptq(size: int) -> None:
    gains = []
    for seed in range(5):
        p = problem(12, size, seed)
        grid = Grid(4, True, 16, 16)
        ours = p.loss(gptaq(p.W, p.H, p.cross, grid).dequantize())
        gains.append(ours / p.loss(gptq(p.W, p.H, grid).dequantize()))

    assert sum(gains) / len(gains) < 0.8


def test_strength_nothing_is_gptq() -> None:
    p = problem(6, 40, 0)

    found = gptaq(p.W, p.H, p.cross, Grid(4), strength=0.0)

    assert torch.equal(found.codes, gptq(p.W, p.H, Grid(4)).codes)


def test_permuting_output_channels_commutes() -> None:
    p = problem(10, 32, 3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))

    permuted = gptaq(p.W[order], p.H, p.cross, Grid(4))

    assert torch.equal(permuted.codes, gptaq(p.W, p.H, p.cross, Grid(4)).codes[order])


def test_an_input_that_is_never_active_gets_no_weight() -> None:
    p = problem(4, 12, 0)
    X = p.X.clone()
    X[:, 5] = 0
    dead = Problem(p.W, X, p.exact)

    assert (gptaq(p.W, dead.H, dead.cross, Grid(4, True, 4, 16)).dequantize()[:, 5] == 0).all()


def test_a_cross_moment_of_another_size_is_refused() -> None:
    p = problem(2, 8, 0)

    with pytest.raises(ValueError, match=r"the cross moment has shape \(7, 7\); expected that of H, \(8, 8\)"):
        unwrap(gptaq)(p.W, p.H, p.cross[:7, :7], Grid(4))  # past the check of shapes that tests have
