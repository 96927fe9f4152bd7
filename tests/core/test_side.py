"""A side branch is part of the weight: its value, its rows and its size."""

from dataclasses import replace

import pytest
import torch

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.side import LowRank, OutlierColumns, Side

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(6, 10, generator=GENERATOR)
LOW_RANK = LowRank(torch.randn(2, 10, generator=GENERATOR).half(), torch.randn(6, 2, generator=GENERATOR).half())
COLUMNS = OutlierColumns(torch.tensor([1, 7]), W[:, [1, 7]].half())
SIDES = pytest.mark.parametrize("side", [LOW_RANK, COLUMNS], ids=["low_rank", "columns"])


def with_side(side: Side, grid: Grid | None = None) -> QuantizedTensor:
    return replace((grid or Grid(4, False, 5, 16)).quantize(W), side=side)


def test_a_product_is_added() -> None:
    weight = with_side(LOW_RANK)
    codes_alone = replace(weight, side=None).dequantize()

    assert torch.allclose(weight.dequantize(), codes_alone + LOW_RANK.up.float() @ LOW_RANK.down.float())


def test_columns_replace_those_of_the_codes() -> None:
    weight = with_side(COLUMNS)
    codes_alone = replace(weight, side=None).dequantize()
    others = [column for column in range(10) if column not in (1, 7)]

    assert torch.equal(weight.dequantize()[:, [1, 7]], W[:, [1, 7]].half().float())
    assert torch.equal(weight.dequantize()[:, others], codes_alone[:, others])


@SIDES
@pytest.mark.parametrize("grid", [Grid(4, False, 5, 16), Grid(8), Grid(8, per_tensor=True)], ids=str)
def test_rows_of_the_whole_are_the_whole_of_the_rows(side: Side, grid: Grid) -> None:
    weight = with_side(side, grid)

    assert torch.equal(weight.rows(2, 5).dequantize(), weight.dequantize()[2:5])


def test_every_stored_bit_is_counted() -> None:
    plain = Grid(4, False, 5, 16).quantize(W).stored_bits

    assert with_side(LOW_RANK).stored_bits == plain + 16 * (2 * 10 + 6 * 2)
    assert with_side(COLUMNS).stored_bits == plain + 16 * 6 * 2 + 32 * 2
