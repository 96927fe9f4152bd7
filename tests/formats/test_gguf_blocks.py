"""Blocks hold codes as they are: what ggml's own reading gives is what the quantized weight says."""

import gguf
import pytest
import torch
from gguf import quants

from slmquant.core.affine import QuantizedTensor
from slmquant.formats.gguf.blocks import encode, fit
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse

EXACT = {
    "W4A16g32": "Q4_0",
    "W4A16g64": "Q4_0",
    "W3A16g64-asym": "Q4_0",
    "W2A16g32": "Q4_0",
    "W1.58A16g64": "Q4_0",
    "W5A16g32": "Q5_0",
    "W6A16g32": "Q8_0",
    "W7A16g64-asym": "Q8_0",
    "W8A16g96": "Q8_0",
    "FP4g32": "Q5_0",
    "FP6E2M3g32": "Q8_0",
    "MXINT8A16": "Q8_0",
    "MXFP4A16": "MXFP4",
    **{name: name for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")},
    **{name: name for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")},
    **{name: name for name in ("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S")},
}
"""Scales are stored in 16 bits or as exponents already: nothing at all is rounded."""
ROUNDED = {
    "W4A16": "Q4_0",
    "W8A16": "Q8_0",
    "W8A16-tensor": "Q8_0",
    "W4A16g32-asym": "Q4_1",
    "W5A16g64-asym": "Q5_1",
}
"""A scale or a minimum is rounded to float16."""


def weight(scheme: str, rows: int = 6, size: int = 768, spread: float = 0.02) -> QuantizedTensor:
    dense = spread * torch.randn(rows, size, generator=torch.Generator().manual_seed(0))
    dense[0] = 0
    dense[1, :32] = 0
    dense[2, 5] = 40 * spread
    spec = parse(scheme).weights
    assert spec is not None
    return grid_of(spec).quantize(dense)


def read_back(packed: QuantizedTensor, name: str) -> torch.Tensor:
    raw = encode(packed, name)
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert raw.shape == (packed.codes.shape[0], packed.codes.shape[1] // elements * size)
    return torch.from_numpy(quants.dequantize(raw, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize(("scheme", "name"), EXACT.items())
def test_codes_with_short_scales_are_held_to_the_last_bit(scheme: str, name: str) -> None:
    packed = weight(scheme)

    assert fit(packed).type == name
    # ggml multiplies d by the group's code first; the order of float32 products is all that may differ
    torch.testing.assert_close(read_back(packed, name), packed.dequantize(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S"])
def test_reading_gives_every_bit_of_uneven_levels_and_codebooks(name: str) -> None:
    packed = weight(name, spread=0.3)

    assert torch.equal(read_back(packed, name), packed.dequantize())


@pytest.mark.parametrize(("scheme", "name"), ROUNDED.items())
def test_of_long_scales_only_the_scale_is_rounded(scheme: str, name: str) -> None:
    packed = weight(scheme)

    back, step = read_back(packed, name), packed.scale.repeat_interleave(packed.group_size, dim=1)

    assert fit(packed).type == name
    assert torch.all((back - packed.dequantize()).abs() <= 0.1 * step)


@pytest.mark.parametrize("size", [32, 96, 160, 576, 960])
@pytest.mark.parametrize("scheme", ["W4A16g128", "W8A16g64", "W4A16g64-asym"])
def test_a_ragged_last_group_is_whole_blocks_too(scheme: str, size: int) -> None:
    packed = weight(scheme, rows=3, size=size)
    name = fit(packed).type
    assert name is not None
    step = packed.scale.repeat_interleave(packed.group_size, dim=1)[:, :size]
    assert torch.all((read_back(packed, name) - packed.dequantize()).abs() <= 0.1 * step)


def test_the_lowest_eight_bit_code_is_kept() -> None:
    packed = weight("W8A16g32")
    codes = packed.codes.clone()
    codes[3] = -128
    lowest = packed.grid.restore(codes, packed.parts)

    torch.testing.assert_close(read_back(lowest, "Q8_0"), lowest.dequantize(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("scheme", "size", "said"),
    [
        ("Q4_K", 576, "rows of 576 are not a multiple of 256, the block size of Q4_K"),
        ("IQ4_XS", 576, "rows of 576 are not a multiple of 256, the block size of IQ4_XS"),
        ("IQ3_S", 576, "rows of 576 are not a multiple of 256, the block size of IQ3_S"),
        ("W4A16g32", 40, "rows of 40 are not a multiple of 32"),
        ("W4A16g48", 96, "groups of 48 are not a multiple of 32"),
        ("W8A16g32-asym", 96, "no type has 8-bit codes with zero points"),
        ("NF4g64", 128, "numbers of NF4"),
        ("FP8A16", 96, "numbers of E4M3"),
        ("NVFP4A16", 96, "groups of 16"),
    ],
)
def test_what_no_block_holds_has_a_reason(scheme: str, size: int, said: str) -> None:
    found = fit(weight(scheme, size=size))

    assert found.type is None
    assert said in str(found.reason)


@pytest.mark.parametrize("spread", [1e8, 1e-9])
def test_a_scale_that_float16_cannot_say_is_named(spread: float) -> None:
    found = fit(weight("W8A16", spread=spread))

    assert found.type is None
    assert "float16" in str(found.reason)
