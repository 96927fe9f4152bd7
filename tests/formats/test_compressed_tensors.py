"""The library that defines the layout unpacks the numbers that were evaluated, and transformers computes with them."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slmquant.engines import transformers as engine
from slmquant.engines.common.contract import OpenOptions
from slmquant.formats import compressed_tensors
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.testing.method_contract import calibration_tokens
from tests.formats.checkpoints import EVEN, rounded, tensors
from tests.formats.gguf_models import export

pytestmark = pytest.mark.engine

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

NAME = "model.layers.1.mlp.down_proj"
FORMAT = compressed_tensors.FORMAT


def written(quantized: QuantizedModel, folder: Path) -> Path:
    return FORMAT.write(export(quantized), folder, otherwise="bf16").path


def logits(quantized: QuantizedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = quantized.model(tokens).logits[0]
    return found


def engine_logits(folder: Path, tokens: Tensor) -> Tensor:
    session = engine.ENGINE.open(folder, OpenOptions(threads=1, context=64))
    return torch.from_numpy(session.feed(tokens[0].tolist(), every=True))


@pytest.mark.parametrize(
    "scheme",
    [
        *["W4A16g16", "W3A16g8-asym", "W5A16-asym", "W8A16", "W8A16-tensor", "W8A8", "W8A8-asym", "W8A8g8"],
        *["FP8", "FP8A16", "MXFP4A16", "NVFP4A16"],
    ],
)
def test_the_library_unpacks_the_same_numbers(tmp_path: Path, scheme: str) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    quantized = rounded(scheme, **EVEN)
    folder = written(quantized, tmp_path / "model")
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    linears = QuantizationConfig.model_validate({k: v for k, v in said.items() if k != "version"}).config_groups[
        "group_0"
    ]
    stored = tensors(folder)
    parts = {part.removeprefix(f"{NAME}."): value for part, value in stored.items() if part.startswith(f"{NAME}.")}
    if parts["weight_scale"].dtype == torch.float16:  # the library multiplies in the dtype of the scales
        parts["weight_scale"] = parts["weight_scale"].float()

    read = BaseCompressor.get_value_from_registry(said["format"]).decompress(parts, linears)["weight"]

    expected = quantized.weights[NAME].dequantize()
    if scheme == "NVFP4A16":  # which it unpacks to bfloat16
        torch.testing.assert_close(read.float(), expected, rtol=2**-8, atol=0)
    else:
        assert torch.equal(read.float(), expected)


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "gemma3_text", "phi3", "olmo2", "starcoder2", "opt", "gpt_neox"]
)
def test_transformers_computes_what_was_evaluated(tmp_path: Path, architecture: str) -> None:
    quantized = rounded("W4A16g8", architecture)
    tokens = calibration_tokens(1)

    computed = engine_logits(written(quantized, tmp_path / "model"), tokens)

    torch.testing.assert_close(computed, logits(quantized, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3"])
def test_with_zero_points_transformers_multiplies_in_float16(tmp_path: Path, architecture: str) -> None:
    quantized = rounded("W4A16g8-asym", architecture)
    tokens = calibration_tokens(1)

    computed = engine_logits(written(quantized, tmp_path / "model"), tokens)

    torch.testing.assert_close(computed, logits(quantized, tokens), rtol=2e-3, atol=5e-3)


@pytest.mark.parametrize(
    "scheme",
    [
        "W8A16",
        "W2A16g4",
        "W8A8-static",
        "W8A8-asym-static",
        "W4A8g8-static",
        "FP8",
        "FP8-static",
        "W4AFP8g8",
        "MXFP4A16",
        "Q4_0",
    ],
)
def test_transformers_computes_with_every_kind(tmp_path: Path, scheme: str) -> None:
    quantized = rounded(scheme, **EVEN)
    tokens = calibration_tokens(1)

    computed = engine_logits(written(quantized, tmp_path / "model"), tokens)

    # where rounding in another order moves an activation across a boundary of its grid, logits move a little
    loose = quantized.scheme.activations is not None
    difference = (computed - logits(quantized, tokens)).abs()
    assert difference.max() < (0.1 if loose else 1e-5)
    assert difference.mean() < (5e-3 if loose else 1e-6)


def test_nvfp4_is_rounded_to_bfloat16_by_transformers(tmp_path: Path) -> None:
    quantized = rounded("NVFP4A16", **EVEN)
    tokens = calibration_tokens(1)

    computed = engine_logits(written(quantized, tmp_path / "model"), tokens)

    assert (computed - logits(quantized, tokens)).abs().mean() < 1e-2


@pytest.mark.parametrize("scheme", ["W8A8", "FP8"])
def test_on_the_same_input_a_linear_differs_by_the_rule_for_a_tokens_scale_alone(tmp_path: Path, scheme: str) -> None:
    """Integers: `max|x| / 127.5` there and `max|x| / 127` here. FP8: the same.

    Logits cannot show it: rounded activations amplify the last digit of a float32 into differences of that size.
    """
    quantized = rounded(scheme, **EVEN)
    session = engine.ENGINE.open(written(quantized, tmp_path / "model"), OpenOptions(threads=1, context=64))
    theirs, ours = (model.get_submodule(NAME) for model in (session._model, quantized.model))
    x = torch.randn(1, 50, 96, generator=torch.Generator().manual_seed(0))
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    by_their_rule = (x / scale).round().clamp(-128, 127) * scale @ quantized.weights[NAME].dequantize().T

    with torch.no_grad():
        out, expected = theirs(x), ours(x) if scheme == "FP8" else by_their_rule

    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    if scheme == "W8A8":
        with torch.no_grad():
            assert (out - ours(x)).norm() > 1e-3 * out.norm()


def test_quantized_embeddings_and_full_precision_are_written_in_sixteen_bits(tmp_path: Path) -> None:
    for scheme in ("W4A16g16E8", "W16A16"):
        quantized = rounded(scheme, **EVEN, method="none" if scheme == "W16A16" else "rtn")
        tokens = calibration_tokens(1)

        computed = engine_logits(written(quantized, tmp_path / scheme), tokens)

        torch.testing.assert_close(computed, logits(quantized, tokens), rtol=0.05, atol=0.02)
    assert "quantization_config" not in json.loads((tmp_path / "W16A16" / "config.json").read_text())
