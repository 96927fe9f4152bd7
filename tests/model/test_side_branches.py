"""A linear with a side branch computes the whole weight, and rounds only what the branch leaves it."""

from dataclasses import replace

import pytest
import torch

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.side import LowRank, OutlierColumns
from slmquant.model.computing.activations import ActivationQuantizer, LastCodes
from slmquant.model.computing.linear import QuantizedLinear
from slmquant.schemes import parse

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(6, 10, generator=GENERATOR)
BIAS = torch.randn(6, generator=GENERATOR)
X = torch.randn(2, 5, 10, generator=GENERATOR)
LOUD = torch.tensor([1, 7])
BRANCH = LowRank(torch.randn(2, 10, generator=GENERATOR).half(), torch.randn(6, 2, generator=GENERATOR).half())
SIDES: dict[str, LowRank | OutlierColumns] = {
    "low_rank": BRANCH,
    "columns": OutlierColumns(LOUD, W[:, LOUD].half()),
}


def weight(side: str, grid: Grid) -> QuantizedTensor:
    return replace(grid.quantize(W), side=SIDES[side])


def quantizer(scheme: str) -> ActivationQuantizer:
    spec = parse(scheme).activations
    assert spec is not None
    return ActivationQuantizer(spec, torch.float32, None, LastCodes())


@pytest.mark.parametrize("grid", [Grid(8), Grid(4, False, 5, 16)], ids=["per channel", "groups"])
@pytest.mark.parametrize("side", SIDES)
def test_the_product_is_that_of_the_whole_weight(side: str, grid: Grid) -> None:
    whole = weight(side, grid)

    found = QuantizedLinear(whole, BIAS, None, torch.float32)(X)

    assert torch.allclose(found, X @ whole.dequantize().T + BIAS, atol=1e-4)


def test_a_low_rank_branch_reads_inputs_that_are_not_rounded() -> None:
    whole = weight("low_rank", Grid(8))
    codes = replace(whole, side=None)
    branch = BRANCH.onto(torch.zeros(6, 10))

    rounded = QuantizedLinear(codes, None, quantizer("W8A4"), torch.float32)(X)
    found = QuantizedLinear(whole, None, quantizer("W8A4"), torch.float32)(X)

    assert torch.allclose(found, rounded + X @ branch.T, atol=1e-4)


def test_outlier_channels_do_not_set_the_scale_of_a_token() -> None:
    whole = weight("columns", Grid(8))
    loud = X.clone()
    loud[..., LOUD] *= 1000

    found = QuantizedLinear(whole, None, quantizer("W8A8"), torch.float32)(loud)

    expected = loud @ whole.dequantize().T
    quiet = QuantizedLinear(replace(whole, side=None), None, quantizer("W8A8"), torch.float32)(loud)
    rest = loud.index_fill(-1, LOUD, 0) @ whole.dequantize().T
    assert torch.allclose(found, expected, atol=0.02 * float(rest.abs().max()))
    assert (quiet - expected).abs().max() > 10 * (found - expected).abs().max()


def test_linears_that_share_an_input_round_it_once() -> None:
    shared = quantizer("W8A8")
    first, second = (QuantizedLinear(weight("columns", Grid(8)), None, shared, torch.float32) for _ in range(2))
    first(X)
    codes = shared(X, LOUD).codes

    second(X)

    assert shared(X, LOUD).codes is codes
    assert (codes[..., LOUD] == 0).all()
