"""The low-rank branch is the best of its rank, as numpy's singular value decomposition knows it."""

import pytest
import torch

from slmquant.core.affine import Grid
from slmquant.core.lowrank import low_rank
from slmquant.core.side import LowRank
from slmquant.testing.oracles_closed_form import best_low_rank, mean_squared_output


def problem(rows: int, size: int, seed: int = 0, tokens: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """A rounding error, and inputs some of whose channels are loud."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(tokens, size, generator=generator) @ torch.randn(size, size, generator=generator)
    X[:, ::5] *= 8
    W = torch.randn(rows, size, generator=generator)
    return W - Grid(3).quantize(W).dequantize(), X


def product(side: LowRank) -> torch.Tensor:
    return side.up.double() @ side.down.double()


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("rank", [1, 4])
def test_equals_the_truncated_decomposition(shape: tuple[int, int], rank: int) -> None:
    error, X = problem(*shape)
    expected, least = best_low_rank(error, X, rank)

    found = product(low_rank(error, X.T @ X / len(X), rank))

    assert mean_squared_output(error - found, X) == pytest.approx(least, rel=2e-3)
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))


def test_fewer_tokens_than_inputs_make_a_singular_hessian_and_no_trouble() -> None:
    for shape in ((12, 20), (20, 12)):
        error, X = problem(*shape, tokens=7)
        _, least = best_low_rank(error, X, 4)

        found = product(low_rank(error, X.T @ X / len(X), 4))

        assert mean_squared_output(error - found, X) == pytest.approx(least, rel=2e-3)


def test_without_inputs_it_is_the_plain_decomposition() -> None:
    error, _ = problem(12, 20)
    singular = torch.linalg.svdvals(error.double())

    left = error - product(low_rank(error, None, 5))

    assert float(left.square().sum()) == pytest.approx(float(singular[5:].square().sum()), rel=1e-3)


def test_full_rank_leaves_what_float16_leaves() -> None:
    error, X = problem(10, 14)
    left = error - product(low_rank(error, X.T @ X, 99))

    assert float(left.abs().max()) < 2e-3 * float(error.abs().max())


def test_nothing_lost_nothing_added() -> None:
    side = low_rank(torch.zeros(6, 8), torch.eye(8), 2)

    assert (product(side) == 0).all()


def test_the_same_bytes_again() -> None:
    error, X = problem(12, 20)
    first, second = (low_rank(error, X.T @ X, 4) for _ in range(2))

    assert torch.equal(first.up, second.up)
    assert torch.equal(first.down, second.down)


def test_eight_bits_halve_the_product_and_cost_little_of_it() -> None:
    error, X = problem(40, 60)
    error *= 1e-5  # scales of such errors are far below what float16 can say
    H = X.T @ X / len(X)
    whole = low_rank(error, H, 4)
    half = whole.in_eight_bits()
    left, expected = (mean_squared_output(error - product(LowRank(*s.factors())), X) for s in (half, whole))

    assert half.stored_bits == 8 * 4 * (40 + 60) + 32 * 4 == whole.stored_bits / 2 + 128
    assert expected <= left < 1.01 * expected
    assert torch.equal(half.onto(torch.zeros(40, 60)), half.factors()[1] @ half.factors()[0])


def test_a_component_of_zeros_stays_zero_in_eight_bits() -> None:
    side = LowRank(torch.zeros(2, 8).half(), torch.zeros(6, 2).half()).in_eight_bits()

    assert (side.onto(torch.zeros(6, 8)) == 0).all()
