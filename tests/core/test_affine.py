"""Integer grids: codes in range, errors bounded, stored scales, awkward groups."""

import pytest
import torch

from slmquant.core import groups
from slmquant.core.affine import Grid
from slmquant.core.elements import NF4, TABLES, TERNARY, Integers
from slmquant.core.tokens import token_codes
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse
from tests.narrowed import present

GRIDS = [
    Grid(bits, symmetric, group, scale_bits)
    for bits in (2, 3, 4, 5, 8)
    for symmetric in (True, False)
    for group, scale_bits in ((16, 16), (7, 16), (1000, 32))
]

NAMES = """
    W8A8-tensor W1.58A16g64 FP8A16 MXFP4A16 NVFP4A16 MXINT8A16 NF4g64 NF4g64-dq FP4g64 FP6g64
    Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL Q4_K Q5_K Q6_K
"""
NAMED = {name: grid_of(present(parse(name).weights)) for name in NAMES.split()}


def weight(rows: int = 12, columns: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_lie_in_range(grid: Grid) -> None:
    codes = grid.quantize(weight()).codes

    assert codes.min() >= grid.code_range.low
    assert codes.max() <= grid.code_range.high


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_an_element_errs_by_at_most_half_a_step(grid: Grid) -> None:
    """Inside the range; float16 scales and the clipped half step at the positive end add a little."""
    W = weight()
    quantized = grid.quantize(W)
    step = groups.expand(quantized.scale, quantized.group_size, W.shape[1])
    low, high = (step * (bound - 0.5 - 1e-3) for bound in grid.code_range)
    zero = 0 if quantized.zero_point is None else groups.expand(quantized.zero_point, quantized.group_size, 40)
    inside = (low - zero * step <= W) & (high - zero * step >= W)

    assert inside.float().mean() > 0.5
    assert ((W - quantized.dequantize()).abs()[inside] <= step[inside] * (0.5 + 2e-3)).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_quantizing_again_with_the_same_parameters_changes_nothing(grid: Grid) -> None:
    W = weight()
    affine = grid.fit(W)
    once = grid.quantize(W, affine).dequantize()

    assert torch.equal(once, grid.quantize(once, affine).dequantize())


@pytest.mark.parametrize("grid", [*GRIDS, *NAMED.values()], ids=str)
@pytest.mark.parametrize("columns", [40, 512])
def test_rounded_numbers_are_those_of_the_codes_to_the_bit(grid: Grid, columns: int) -> None:
    """Searches round without keeping codes; what they look at must be what is stored in the end."""
    W = weight(24, columns)
    W[3], W[4, :20] = 0.0, 0.0
    if not grid.elements.row_bytes(columns) or (grid.storage.spans_groups and columns % 256):
        pytest.skip("such numbers come in whole blocks")

    assert torch.equal(grid.rounded(W), grid.quantize(W).dequantize())
    narrow = grid.fit(0.8 * W)
    assert torch.equal(grid.rounded(W, narrow), grid.quantize(W, narrow).dequantize())


@pytest.mark.parametrize("symmetric", [True, False])
def test_more_bits_err_less(symmetric: bool) -> None:
    W = weight(64, 256)
    errors = [(W - Grid(bits, symmetric, 64, 16).quantize(W).dequantize()).square().mean() for bits in range(2, 9)]

    assert errors == sorted(errors, reverse=True)


def test_a_group_of_zeros_stays_zero() -> None:
    W = weight()
    W[:, 16:32] = 0
    for symmetric in (True, False):
        quantized = Grid(4, symmetric, 16, 16).quantize(W)

        assert (quantized.dequantize()[:, 16:32] == 0).all()
        assert (quantized.scale > 0).all()


def test_a_single_outlier_costs_only_its_own_group() -> None:
    W = weight()
    clean = Grid(4, True, 16, 16).quantize(W).dequantize()
    W[0, 3] = 50.0
    dirty = Grid(4, True, 16, 16).quantize(W).dequantize()

    assert torch.equal(clean[:, 16:], dirty[:, 16:])
    assert dirty[0, 3] == pytest.approx(50.0, rel=0.08)


def test_the_ragged_last_group_has_a_scale_of_its_own() -> None:
    W = torch.cat([torch.full((2, 32), 1.0), torch.full((2, 5), 0.01)], dim=1)
    quantized = Grid(4, False, 16, 32).quantize(W)

    assert quantized.scale.shape == (2, 3)
    assert torch.allclose(quantized.dequantize(), W, rtol=1e-5)


def test_scales_are_what_is_stored() -> None:
    quantized = Grid(4, True, 16, 16).quantize(weight())

    assert torch.equal(quantized.scale, quantized.scale.half().float())


def test_one_scale_serves_a_tensor() -> None:
    W = weight()
    quantized = Grid(8, True, per_tensor=True).quantize(W)

    assert quantized.scale.shape == (1, 1)
    assert float(quantized.scale) == pytest.approx(float(W.abs().max()) * 2 / 255)
    assert torch.equal(quantized.rows(2, 5).dequantize(), quantized.dequantize()[2:5])


def test_rows_are_quantized_alone() -> None:
    """Stacking linears and taking their rows apart gives what each gives alone."""
    top, bottom = weight(5, 40, 1), weight(7, 40, 2)
    for grid in GRIDS:
        stacked = grid.quantize(torch.cat([top, bottom]))

        assert torch.equal(stacked.rows(0, 5).dequantize(), grid.quantize(top).dequantize())
        assert torch.equal(stacked.rows(5, 12).dequantize(), grid.quantize(bottom).dequantize())


def test_stored_bits_count_codes_scales_and_zero_points() -> None:
    assert Grid(4, True, 64, 16).quantize(weight(10, 128)).stored_bits == 10 * (128 * 4 + 2 * 16)
    assert Grid(4, False, 64, 16).quantize(weight(10, 128)).stored_bits == 10 * (128 * 4 + 2 * 16 + 8)
    assert Grid(8, True).quantize(weight(10, 128)).stored_bits == 10 * (128 * 8 + 32)


def test_ternary_scales_minimise_the_squared_error() -> None:
    """Against 400 scales of each channel."""
    W = weight(6, 60)
    grid = Grid(2, numbers=TERNARY, rule="least squares")
    error = (W - grid.quantize(W).dequantize()).square().sum(1)
    trials = torch.linspace(0, 1, 401)[1:, None, None] * W.abs().amax(1, keepdim=True)
    least = (W - trials * (W / trials).round().clamp(-1, 1)).square().sum(2).amin(0)

    assert (error <= least).all()


def test_a_table_takes_no_zero_point() -> None:
    with pytest.raises(ValueError, match="NF4 takes no zero point; only integers do"):
        Grid(4, symmetric=False, numbers=NF4)
    with pytest.raises(ValueError, match="NF4 has codes of 4 bits, the grid says 8"):
        Grid(8, numbers=NF4)


def test_a_real_zero_point_errs_less_than_a_whole_one() -> None:
    W = weight(64, 64) + 0.01
    whole, real = (Grid(3, False, 16, 16, real_zero_point=real) for real in (False, True))

    assert present(real.quantize(W).zero_point).dtype == torch.float32
    assert (real.quantize(W).dequantize() - W).norm() < (whole.quantize(W).dequantize() - W).norm()


def test_what_survives_bfloat16() -> None:
    """Whole numbers and small floats do: products over their codes are exact."""
    W = weight()
    for grid in (*GRIDS, *(Grid(table.bits, numbers=table) for name, table in TABLES.items() if name != "NF4")):
        assert grid.quantize(W).exact_in_bfloat16
    assert not Grid(4, numbers=NF4).quantize(W).exact_in_bfloat16
    assert not Grid(4, False, real_zero_point=True).quantize(W).exact_in_bfloat16


INT8 = Integers.of(8, symmetric=True)


class TestActivations:
    def test_each_token_has_its_own_scale(self) -> None:
        x = torch.randn(4, 32) * torch.tensor([[1.0], [10.0], [0.0], [1e-3]])
        codes, scale = token_codes(x, INT8)

        assert codes.abs().amax(dim=1).tolist() == [127, 127, 0, 127]
        assert torch.allclose(codes * scale, x, atol=float(x.abs().max()) / 254 + 1e-6)

    def test_a_static_scale_clips_what_lies_beyond(self) -> None:
        codes, scale = token_codes(torch.tensor([[0.5, 100.0, -100.0]]), INT8, torch.tensor(0.1))

        assert codes.tolist() == [[5, 127, -128]]
        assert scale == pytest.approx(0.1)

    def test_codes_are_exact_in_bfloat16(self) -> None:
        x = torch.randn(64, 64)
        exact = token_codes(x.bfloat16().float(), INT8).codes

        assert torch.equal(token_codes(x.bfloat16(), INT8).codes.float(), exact)
