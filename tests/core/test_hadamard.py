"""Hadamard matrices are what they are called, at every order that small models have."""

import pytest
import torch

from slmquant.core.hadamard import hadamard

PALEY = (12, 20, 24, 28, 36, 40, 44, 52, 60, 76, 100, 108, 140, 148, 344)
WILLIAMSON = (92, 116, 172, 184)
MODELS = (64, 128, 288, 576, 640, 768, 896, 960, 1536, 2048, 2304)


def orthogonality_error(H: torch.Tensor) -> float:
    return float((H @ H.T - torch.eye(len(H), dtype=H.dtype)).abs().max())


@pytest.mark.parametrize("order", [1, 2, 4, *PALEY, *WILLIAMSON, *MODELS])
def test_entries_are_of_one_magnitude_and_rows_orthogonal(order: int) -> None:
    transform = hadamard(order)
    H = transform.matrix()

    assert transform.blocks == 1
    assert torch.allclose(H.abs(), torch.full_like(H, order**-0.5), rtol=1e-13, atol=0)
    assert orthogonality_error(H) < 1e-12


@pytest.mark.parametrize("order", [4864, 5504, 6912, 11008])
def test_feed_forward_widths_of_small_models_have_one(order: int) -> None:
    transform = hadamard(order)
    x = torch.randn(3, order, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert transform.blocks == 1
    assert torch.allclose(transform.undo(transform.apply(x)), x, rtol=0, atol=1e-12)
    first = transform.apply(torch.eye(order, dtype=torch.float64)[:1])
    assert torch.allclose(first.abs(), torch.full_like(first, order**-0.5))


@pytest.mark.parametrize(("order", "block"), [(156, 52), (10, 2), (14, 2), (7, 1), (188, 4), (2 * 3 * 5, 2)])
def test_where_no_construction_reaches_there_are_blocks_and_it_says_so(order: int, block: int) -> None:
    transform = hadamard(order)
    H = transform.matrix()

    assert (transform.block, transform.blocks) == (block, order // block)
    assert orthogonality_error(H) < 1e-12
    inside = torch.block_diag(*[torch.ones(block, block)] * transform.blocks).bool()
    assert not H[~inside].any()
    assert torch.allclose(H[inside].abs(), torch.full_like(H[inside], block**-0.5))


@pytest.mark.parametrize("order", [1, 8, 40, 76, 92, 576])
def test_the_fast_product_is_the_dense_one(order: int) -> None:
    transform = hadamard(order)
    x = torch.randn(2, 3, order, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert torch.allclose(transform.apply(x), x @ transform.matrix(), rtol=0, atol=1e-13)
    assert torch.allclose(transform.undo(x), x @ transform.matrix().T, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("order", "most"), [(576, 28), (4864, 92), (2048, 40), (1536, 36)])
def test_a_row_costs_the_sum_of_its_factors(order: int, most: int) -> None:
    assert sum(hadamard(order).factors) <= most


def test_two_orders_below_two_hundred_are_missed() -> None:
    assert [order for order in range(4, 201, 4) if hadamard(order).blocks > 1] == [156, 188]


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="order 0; expected at least 1"):
        hadamard(0)
