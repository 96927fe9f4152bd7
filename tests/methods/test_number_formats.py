"""Every method that rounds to a grid rounds to any grid; formats run, are stored and are read back."""

from pathlib import Path

import pytest
import torch

from slmquant.artifact import Artifact
from slmquant.core.gptq import gptq
from slmquant.errors import RefusedError
from slmquant.formats import native
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens, quantized
from tests.formats.gguf_models import tokenizer

SCHEMES = ["FP8", "FP8-static", "W4AFP8g16", "MXFP4", "NVFP4", "NF4g16-dq", "W1.58A8", "Q4_KE6", "MXFP4A16E8"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_in_any_format_runs_and_is_read_back(tmp_path: Path, scheme: str) -> None:
    written = quantized("rtn", scheme)
    native.save(Artifact(written, tokenizer(), "tiny", "0"), tmp_path / "once")
    read = native.load(tmp_path / "once").quantized
    native.save(Artifact(read, tokenizer(), "tiny", "0"), tmp_path / "twice")
    again = native.load(tmp_path / "twice").quantized

    assert read.scheme == written.scheme
    assert read.size == written.size
    assert read.size.stored_bytes == sum(tensor.nbytes for tensor in native.encode(written).values())
    for name, weight in written.weights.items():
        assert torch.equal(read.weights[name].dequantize(), weight.dequantize())
    with torch.no_grad():  # the first writing rounded to bfloat16 what is not quantized, the second nothing
        logits = [model.model(calibration_tokens(2)).logits for model in (written, read, again)]
    assert logits[0].isfinite().all()
    assert torch.equal(logits[1], logits[2])


@pytest.mark.parametrize("scheme", ["FP4g16", "NF4g16", "NF4g16-dq", "MXFP4", "NVFP4", "W1.58A16g16", "Q4_K", "Q3_K"])
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_errs_less_than_nearest_on_every_grid(scheme: str, act_order: bool) -> None:
    """On its own objective, over several correlated problems."""
    spec = parse(scheme).weights
    assert spec is not None
    grid, better = grid_of(spec), []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(24, 72, generator=generator)
        X = torch.randn(300, 12, generator=generator) @ torch.randn(12, 72, generator=generator)
        X += 0.1 * torch.randn(300, 72, generator=generator)
        H = X.T @ X / len(X)

        def loss(rounded: torch.Tensor, W: torch.Tensor = W, H: torch.Tensor = H) -> float:
            return float(((W - rounded) @ H * (W - rounded)).sum())

        solved = gptq(W, H, grid, act_order=act_order)
        assert torch.equal(grid.stored(grid.read(solved.parts)).scale, solved.scale)
        better.append(loss(solved.dequantize()) / loss(grid.quantize(W).dequantize()))

    assert sum(better) / len(better) < 0.8


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("scheme", ["NVFP4A16", "NF4g16-dq", "Q4_K", "FP8-tensor"])
def test_methods_take_any_grid(method: str, scheme: str) -> None:
    model, spec = quantized(method, scheme), parse(scheme).weights

    assert spec is not None
    assert model.model(calibration_tokens(2)).logits.isfinite().all()
    assert all(weight.grid == grid_of(spec) for weight in model.weights.values())


@pytest.mark.parametrize("method", ["kquant", "kquant_imatrix"])
def test_the_k_quant_search_is_one_for_ggufs_types(method: str) -> None:
    assert quantized(method, "Q3_K").model(calibration_tokens(2)).logits.isfinite().all()
    with pytest.raises(RefusedError, match="supports GGUF's types, not NF4; use Q4_K, or rtn or gptq"):
        quantized(method, "NF4g16")


@pytest.mark.parametrize(
    ("scheme", "remedy"),
    [
        ("Q3_K_M", r"mixture Q3_K_M is not supported; use one of .*Q4_K_M, .* the pure type Q3_K"),
        ("IQ2_XXS", "IQ2_XXS is not supported; use IQ4_XS, IQ3_S, .*, or one of Q2_K to Q6_K"),
        ("BF16", "use W16A16"),
    ],
)
def test_mixtures_are_refused_with_a_remedy(scheme: str, remedy: str) -> None:
    with pytest.raises(RefusedError, match=remedy):
        quantized("rtn", scheme)
