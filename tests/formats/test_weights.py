"""Every number format is written and read bit for bit, in exactly the bits that it says."""

from dataclasses import replace

import pytest
import torch

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.kquant import search
from slmquant.core.side import LowRank, OutlierColumns
from slmquant.formats.native.weights import WeightFacts, WeightFacts1, decode_weight, encode_weight, facts_of
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse

INTEGERS = ["W4A16g64", "W3A16g64-asym", "W8A16", "W8A16-tensor", "W5A16-asym", "W1.58A16g64", "W1.58A16-tensor"]
FLOATS = ["FP8", "FP8-tensor", "FP8E5M2", "FP6g64", "FP6E2M3g64", "FP4g64", "FP4g64-dq", "NF4", "NF4g64", "NF4g64-dq"]
BLOCKS = ["MXFP4", "MXFP6", "MXFP6E2M3", "MXFP8", "MXFP8E5M2", "MXINT8", "NVFP4"]
GGUF = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
GGUF += ["IQ3_S", "IQ3_XXS", "IQ2_S"]
ALL = [*INTEGERS, *FLOATS, *BLOCKS, *GGUF]


def weight(rows: int = 13, columns: int = 584) -> torch.Tensor:
    """Ragged at every group size, with a row and a group of zeros."""
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02
    W[3], W[5, 64:128] = 0, 0
    return W


def grid(name: str) -> Grid:
    spec = parse(name).weights
    assert spec is not None
    return grid_of(spec)


def read_back(written: QuantizedTensor) -> QuantizedTensor:
    tensors = {f"layer.x.{part}": value for part, value in encode_weight(written).items()}
    facts = WeightFacts.model_validate_json(facts_of(written).model_dump_json())
    return decode_weight(tensors | {"layer.x.bias": torch.zeros(1), "layer.codes": torch.zeros(1)}, "layer.x", facts)


@pytest.mark.parametrize("name", ALL)
def test_a_weight_comes_back_bit_for_bit(name: str) -> None:
    written = grid(name).quantize(weight())
    read = read_back(written)

    assert read.grid == written.grid
    assert torch.equal(read.codes, written.codes)
    assert torch.equal(read.scale, written.scale)
    assert torch.equal(read.dequantize(), written.dequantize())


@pytest.mark.parametrize("name", ALL)
def test_it_takes_exactly_its_stored_bits(name: str) -> None:
    written = grid(name).quantize(weight())

    assert (
        sum(8 * part.numel() * part.element_size() for part in encode_weight(written).values()) == written.stored_bits
    )


@pytest.mark.parametrize("name", ALL)
def test_zeros_stay_zero_and_rounding_twice_changes_nothing(name: str) -> None:
    W = weight()
    once = grid(name).quantize(W)

    smallest = 0 if once.grid.elements.has_zero else 1e-6
    assert once.dequantize()[3].abs().max() <= smallest
    if smallest and once.grid.spans_groups:  # the smallest number that the scale of its super-block leaves
        smallest = 0.01 * float(W.abs().max())
    assert once.dequantize()[5, 64:128].abs().max() <= smallest
    assert torch.equal(grid(name).quantize(once.dequantize(), grid(name).fit(W)).dequantize(), once.dequantize())


@pytest.mark.parametrize("name", ["Q4_K", "Q4_1", "W4A16g64-asym"])
def test_parameters_from_elsewhere_come_back_too(name: str) -> None:
    """Those of a search, which no range gives."""
    W = weight()
    written = grid(name).quantize(W, search(W, torch.ones_like(W), grid(name)))

    assert torch.equal(read_back(written).dequantize(), written.dequantize())


def test_a_real_zero_point_is_stored_in_sixteen_bits() -> None:
    real = replace(grid("W4A16g64-asym"), real_zero_point=True)
    written = real.quantize(weight())

    assert written.parts["zero_point"].dtype == torch.float16
    assert torch.equal(read_back(written).dequantize(), written.dequantize())


@pytest.mark.parametrize("name", [name for name in ALL if not grid(name).spans_rows])
def test_rows_of_stacked_weights_are_written_as_what_they_are_alone(name: str) -> None:
    W = weight()
    stacked, alone = grid(name).quantize(W).rows(4, 9), grid(name).quantize(W[4:9])

    assert stacked.stored_bits == alone.stored_bits
    assert torch.equal(read_back(stacked).dequantize(), alone.dequantize())


@pytest.mark.parametrize(
    "side",
    [
        LowRank(torch.randn(4, 584).half(), torch.randn(13, 4).half()),
        LowRank(torch.randn(4, 584).half(), torch.randn(13, 4).half()).in_eight_bits(),
        OutlierColumns(torch.tensor([3, 500]), torch.randn(13, 2).half()),
    ],
    ids=["low rank", "low rank in 8 bits", "outlier columns"],
)
def test_a_side_branch_is_written_with_its_codes(side: LowRank | OutlierColumns) -> None:
    written = replace(grid("NF4g64").quantize(weight()), side=side)
    parts = encode_weight(written)

    assert torch.equal(read_back(written).dequantize(), written.dequantize())
    assert sum(8 * part.nbytes for part in parts.values()) == written.stored_bits


@pytest.mark.parametrize("asymmetric", [False, True])
def test_version_1_is_still_read(asymmetric: bool) -> None:
    """Its facts were four numbers; its tensors are the same."""
    written = Grid(4, not asymmetric, 64, 16).quantize(weight())
    tensors = {f"x.{part}": value for part, value in encode_weight(written).items()}
    facts = WeightFacts1(bits=4, in_features=584, group_size=64, scale_bits=16)

    assert torch.equal(decode_weight(tensors, "x", facts).dequantize(), written.dequantize())


def test_unknown_scales_are_named() -> None:
    written = grid("NF4g64").quantize(weight())
    facts = facts_of(written).model_copy(update={"scales": "logarithms"})

    with pytest.raises(ValueError, match="stored as 'logarithms'; expected one of float16, "):
        decode_weight({"x.codes": torch.zeros(1)}, "x", facts)
