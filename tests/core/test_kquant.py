"""GGUF's types against ggml's own dequantization, and the search against plain rounding and looking everywhere."""

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from slmquant.core.affine import Grid, QuantizedTensor
from slmquant.core.kquant import search
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse

K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def weight(rows: int = 24, columns: int = 576, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def grid(name: str) -> Grid:
    spec = parse(name).weights
    assert spec is not None
    return grid_of(spec)


def error(quantized: QuantizedTensor, W: torch.Tensor, importance: torch.Tensor) -> float:
    return float((importance * (W - quantized.dequantize()).square()).sum())


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_types_are_ggmls(name: str) -> None:
    """The same scales; codes differ where ggml's rounding of a half does, by one step of one in a thousand."""
    W = weight(columns=64)
    ggml = torch.tensor(gguf.dequantize(gguf.quantize(W.numpy(), Type[name]), Type[name]))
    ours = grid(name).quantize(W)
    apart = (ours.dequantize() - ggml).abs()
    step = ours.scale.abs().repeat_interleave(32, dim=1)

    assert (apart <= 1.01 * step).all()
    assert (apart < 0.01 * step).float().mean() > 0.99


@pytest.mark.parametrize("name", LEGACY)
def test_quiet_weights_have_subnormal_scales_as_in_ggml(name: str) -> None:
    """ggml divides by the scale before it is rounded, ours by the scale that is stored: ours is nearer."""
    W = weight(columns=64) * 0.01
    ggml = torch.tensor(gguf.dequantize(gguf.quantize(W.numpy(), Type[name]), Type[name]))
    ours = grid(name).quantize(W)

    assert float((ours.dequantize() - W).norm()) <= 1.001 * float((ggml - W).norm())


def ggml_q4_k(parts: dict[str, npt.NDArray[Any]], codes: npt.NDArray[np.uint8]) -> bytes:
    """One super-block: d, dmin, eight 6-bit scales and minima in 12 bytes, nibbles of two groups side by side."""
    s, m = parts["scale"].astype(int), parts["shift"].astype(int)
    packed = [s[j] | (s[j + 4] >> 4 << 6) for j in range(4)] + [m[j] | (m[j + 4] >> 4 << 6) for j in range(4)]
    packed += [(s[j + 4] & 15) | ((m[j + 4] & 15) << 4) for j in range(4)]
    pairs = codes.reshape(4, 2, 32)
    nibbles = pairs[:, 0] | (pairs[:, 1] << 4)
    return parts["d"].tobytes() + parts["dmin"].tobytes() + bytes(packed) + nibbles.astype(np.uint8).tobytes()


def ggml_q6_k(parts: dict[str, npt.NDArray[Any]], codes: npt.NDArray[np.uint8]) -> bytes:
    """One super-block: low four bits, high two bits, sixteen 8-bit scales, d."""
    quarters = (codes.astype(int) + 32).reshape(2, 4, 32)
    low = np.stack(
        [quarters[:, 0] & 15 | (quarters[:, 2] & 15) << 4, quarters[:, 1] & 15 | (quarters[:, 3] & 15) << 4], 1
    )
    high = sum(quarters[:, i] >> 4 << 2 * i for i in range(4))
    return (
        low.astype(np.uint8).tobytes()
        + np.asarray(high).astype(np.uint8).tobytes()
        + parts["scale"].astype(np.int8).tobytes()
        + parts["d"].tobytes()
    )


@pytest.mark.parametrize(("name", "pack"), [("Q4_K", ggml_q4_k), ("Q6_K", ggml_q6_k)])
def test_super_blocks_mean_what_ggml_says(name: str, pack: Callable[..., bytes]) -> None:
    ours = grid(name).quantize(weight(rows=5, columns=256))
    rows = [
        np.frombuffer(pack({k: v[row].numpy() for k, v in ours.parts.items()}, ours.codes[row].numpy()), np.uint8)
        for row in range(5)
    ]
    ggml = torch.tensor(gguf.dequantize(np.stack(rows), Type[name]))

    assert torch.allclose(ours.dequantize(), ggml, rtol=1e-5, atol=1e-7)


SUPER_BLOCK_BYTES = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "IQ4_XS": 136}
SUPER_BLOCK_BYTES |= {"IQ3_S": 110, "IQ3_XXS": 98, "IQ2_S": 82}


@pytest.mark.parametrize(("name", "bytes_"), SUPER_BLOCK_BYTES.items())
def test_a_whole_super_block_takes_as_many_bytes_as_ggmls(name: str, bytes_: int) -> None:
    assert grid(name).quantize(weight(1, 256)).stored_bits == 8 * bytes_


@pytest.mark.parametrize("name", [*LEGACY, *K_QUANTS, "IQ4_NL", "IQ4_XS", "NF4g32"])
@pytest.mark.parametrize("columns", [576, 50])
def test_the_search_errs_less_than_the_range_by_its_own_measure(name: str, columns: int) -> None:
    """Whatever an error counts for, and with super-blocks and groups that end early."""
    W = weight(columns=columns)
    for importance in (torch.ones_like(W), W.square(), torch.rand(1, columns).expand_as(W)):
        searched = grid(name).quantize(W, search(W, importance, grid(name)))

        assert error(searched, W, importance) < error(grid(name).quantize(W), W, importance)


def test_the_search_comes_near_the_best_of_all_lines() -> None:
    """Against 80 × 80 ranges for each of some groups of 32, in float64."""
    W = weight(6, 32).double()
    importance = torch.ones_like(W)
    found = grid("Q4_1").quantize(W.float(), search(W.float(), importance.float(), grid("Q4_1")))
    best = []
    for row in W:
        lows, highs = (bound * torch.linspace(0.5, 1.1, 80).double() for bound in (row.min(), row.max()))
        scale = (highs[None, :] - lows[:, None])[..., None] / 15
        rounded = ((row - lows[:, None, None]) / scale).round().clamp(0, 15) * scale + lows[:, None, None]
        best.append(float((row - rounded).square().sum(2).min()))

    assert error(found, W.float(), importance.float()) < 1.15 * sum(best)


@pytest.mark.parametrize("name", ["IQ4_NL", "NF4g32"])
def test_the_search_comes_near_the_best_scale_of_a_table(name: str) -> None:
    """Against 4000 scales of both signs for each group, in float64; IQ4_NL may turn the table round."""
    W = weight(12, 32).double()
    importance = torch.rand(12, 32, generator=torch.Generator().manual_seed(1)).double()
    table = grid(name).elements
    found = grid(name).quantize(W.float(), search(W.float(), importance.float(), grid(name)))
    best = []
    for row, weights in zip(W, importance, strict=True):
        scales = row.abs().max() / table.high * torch.linspace(0.6, 1.4, 2000).double()[:, None]
        if name == "IQ4_NL":
            scales = torch.cat([scales, -scales])
        rounded = table.values(table.nearest(row / scales)) * scales
        best.append(float((weights * (row - rounded).square()).sum(1).min()))

    assert error(found, W.float(), importance.float()) < 1.1 * sum(best)


def test_uneven_levels_have_no_zero_and_cost_next_to_nothing_there() -> None:
    W = weight()
    W[2], W[5, 64:96] = 0, 0
    for affine in (None, search(W, torch.ones_like(W), grid("IQ4_NL"))):
        quantized = grid("IQ4_NL").quantize(W, affine).dequantize()

        assert quantized[2].abs().max() < 1e-7
        assert quantized[5, 64:96].abs().max() < 1e-7


def test_groups_of_zeros_stay_zero() -> None:
    W = weight()
    W[2], W[5, 64:96] = 0, 0
    for name in [*LEGACY, *K_QUANTS]:
        quantized = grid(name).quantize(W, search(W, torch.ones_like(W), grid(name))).dequantize()

        assert (quantized[2] == 0).all()
        assert (quantized[5, 64:96] == 0).all()


@pytest.mark.parametrize("name", ["W4A16g64", "W3A16g64-asym", "W4A16", "W4A16g100", "Q4_K", "Q5_0"])
def test_what_is_searched_together_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    W = weight(rows=700, columns=512)
    importance = torch.rand(1, 512, generator=torch.Generator().manual_seed(1))
    in_parts = search(W, importance, grid(name))
    monkeypatch.setattr("slmquant.core.kquant._CACHED_ELEMENTS", W.numel() + 1)

    at_once = search(W, importance, grid(name))

    assert torch.equal(in_parts.scale, at_once.scale)
    assert torch.equal(in_parts.zero_point, at_once.zero_point)
