"""Blocks of ONNX Runtime's operators say the numbers of a weight exactly, whatever its shape and groups."""

import numpy as np
import pytest
import torch

from slmquant.core.affine import Grid
from slmquant.core.elements import by_name
from slmquant.formats.onnx.blocks import BLOCK_SIZES, Blocks, blocks_of, dense_of, joined, misfit, nearest_int8
from slmquant.formats.onnx.row_index import RowIndex, Rows


def weight(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def by_the_documentation(blocks: Blocks) -> np.ndarray:
    """`ContribOperators.md`, read one number at a time."""
    per_byte, mask = 8 // blocks.bits, 2**blocks.bits - 1
    out = np.zeros((len(blocks.codes), blocks.in_features), np.float32)
    for row, column in np.ndindex(*out.shape):
        block, place = divmod(column, blocks.block_size)
        code = int(blocks.codes[row, block, place // per_byte]) >> (blocks.bits * (place % per_byte)) & mask
        zero: float = 2 ** (blocks.bits - 1)
        if blocks.zero_point is not None and blocks.zero_point.dtype == torch.uint8:
            zero = int(blocks.zero_point[row, block // per_byte]) >> (blocks.bits * (block % per_byte)) & mask
        elif blocks.zero_point is not None:
            zero = float(blocks.zero_point[row, block])
        out[row, column] = np.float32(blocks.scale[row, block]) * np.float32(code - zero)
    return out


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("size", "group_size"), [(64, 16), (72, 48), (40, 32), (96, 64), (33, 1000), (320, 256)])
@pytest.mark.parametrize("scale_bits", [16, 32])
def test_blocks_say_the_very_numbers(bits: int, symmetric: bool, size: int, group_size: int, scale_bits: int) -> None:
    if bits == 1 and symmetric:
        pytest.skip("one bit has no symmetric range")
    codes = Grid(bits, symmetric, group_size, scale_bits).quantize(weight(5, size))

    assert misfit(codes, looked_up=False) is None
    blocks = blocks_of(codes, looked_up=False)

    assert torch.equal(blocks.dequantize(), codes.dequantize())
    assert np.array_equal(by_the_documentation(blocks), codes.dequantize().numpy())
    assert blocks.block_size in BLOCK_SIZES
    assert blocks.bits in (4, 8)


def test_real_zero_points_and_scales_of_a_whole_tensor_are_kept() -> None:
    real = Grid(4, symmetric=False, group_size=32, real_zero_point=True).quantize(weight(3, 64))
    tensor = Grid(8, per_tensor=True).quantize(weight(3, 64))

    for codes in (real, tensor):
        assert torch.equal(blocks_of(codes, looked_up=False).dequantize(), codes.dequantize())


@pytest.mark.parametrize(
    ("size", "group_size", "block"), [(576, 128, 64), (576, 1000, 64), (64, 32, 32), (48, 1000, 16)]
)
def test_rows_that_are_looked_up_are_whole_blocks(size: int, group_size: int, block: int) -> None:
    codes = Grid(4, group_size=group_size, scale_bits=16).quantize(weight(3, size))

    blocks = blocks_of(codes, looked_up=True)

    assert blocks.block_size == block
    assert torch.equal(blocks.dequantize(), codes.dequantize())


@pytest.mark.parametrize(
    ("grid", "size", "looked_up", "reason"),
    [
        (Grid(4, group_size=24), 48, False, "not of 24"),
        (Grid(4, group_size=32), 40, True, "not of 40"),
        (Grid(4, numbers=by_name("NF4"), group_size=32), 64, False, "not NF4"),
        (Grid(8, symmetric=False, group_size=32, real_zero_point=True), 64, False, "4 bits only"),
        (Grid(4, symmetric=False, group_size=32, real_zero_point=True), 64, True, "no real zero points"),
    ],
)
def test_what_cannot_be_said_has_a_reason(grid: Grid, size: int, looked_up: bool, reason: str) -> None:
    assert reason in (misfit(grid.quantize(weight(3, size)), looked_up=looked_up) or "")


def test_rounding_anew_is_within_half_a_step() -> None:
    original = weight(4, 64)

    blocks = nearest_int8(original, looked_up=False)

    step = blocks.scale.float().repeat_interleave(32, dim=1)
    assert bool(((blocks.dequantize() - original).abs() <= 0.5 * step * (1 + 1e-5) + 0.5 * step).all())


def test_floats_beyond_float16_stay_in_float32() -> None:
    assert dense_of(torch.tensor([[65504.0]])).type == "f16"
    assert dense_of(torch.tensor([[1e6]])).type == "f32"


def test_stacking_is_that_of_the_numbers() -> None:
    grids = [Grid(4, group_size=16), Grid(4, group_size=16), Grid(8, group_size=16)]
    parts = [blocks_of(grid.quantize(weight(3, 32, seed)), looked_up=False) for seed, grid in enumerate(grids)]

    merged = joined(parts)

    assert [len(part.dequantize()) for part in merged] == [6, 3]
    expected = torch.cat([part.dequantize() for part in parts])
    assert torch.equal(torch.cat([part.dequantize() for part in merged]), expected)
    assert torch.equal(merged[0].rows(2, 5).dequantize(), expected[2:5])


def test_matrices_are_recognised_by_their_rows() -> None:
    first, second = weight(4, 8, 1), weight(6, 8, 2)
    index = RowIndex({"a": first, "b": second})

    assert index.find(torch.cat([first, second[2:5]]).numpy()) == (
        Rows(module="a", start=0, stop=4),
        Rows(module="b", start=2, stop=5),
    )
    assert index.find((first * 2).numpy()) is None
    assert index.find(first[:, :4].numpy()) is None
