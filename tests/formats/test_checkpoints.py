"""Folders for transformers hold the codes that were evaluated, or say which they cannot hold."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slmquant import formats
from slmquant.errors import ModelError, RefusedError, UnknownNameError
from slmquant.formats.common.contract import Format
from slmquant.model.computing.quantized_model import QuantizedModel
from tests.formats.checkpoints import EVEN, rounded, tensors
from tests.formats.gguf_models import export


def fmt(name: str) -> Format:
    if name == "compressed_tensors":
        pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    return formats.load(name)


def weights(quantized: QuantizedModel) -> Mapping[str, torch.Tensor]:
    return {name: weight.dequantize() for name, weight in quantized.weights.items()}


HELD = [
    *[("compressed_tensors", s) for s in ("W4A16g16", "W3A16g8-asym", "W5A16-asym", "W8A16", "W2A16g4", "W1.58A16g8")],
    *[("compressed_tensors", s) for s in ("W8A16-tensor", "W8A8", "W8A8-asym", "W8A8g8", "W8A8-static", "W4AFP8g8")],
    *[("compressed_tensors", s) for s in ("FP8", "FP8A16", "FP8-static", "FP8-tensor", "NVFP4A16", "MXFP4A16")],
    *[("compressed_tensors", s) for s in ("Q4_0", "Q8_0")],
    *[("gptq", s) for s in ("W4A16g16", "W4A16g16-asym", "W8A16g32", "W2A16g16-asym", "W3A16g8", "W1.58A16g8", "Q4_0")],
    *[("awq", s) for s in ("W4A16g16", "W4A16g32-asym")],
]


@pytest.mark.parametrize(("name", "scheme"), HELD)
def test_reading_gives_back_what_was_written(tmp_path: Path, name: str, scheme: str) -> None:
    quantized = rounded(scheme, **EVEN)

    written = fmt(name).write(export(quantized), tmp_path / "model")
    read = fmt(name).read(tmp_path / "model")

    assert all(placement.exact and placement.reason is None for placement in written.placements)
    for module, weight in weights(quantized).items():
        torch.testing.assert_close(read[module], weight, rtol=2e-7 if scheme == "NVFP4A16" else 0, atol=0)
    for module in ("model.embed_tokens", "model.layers.0.input_layernorm", "model.norm"):
        assert torch.equal(read[module], quantized.model.get_submodule(module).get_parameter("weight"))


@pytest.mark.parametrize("name", ["gptq", "awq"])
@pytest.mark.parametrize("scheme", ["W4A16", "W4A16-asym", "W4A16-tensor"])
def test_scales_of_channels_are_rounded_to_float16(tmp_path: Path, name: str, scheme: str) -> None:
    quantized = rounded(scheme, **EVEN)

    fmt(name).write(export(quantized), tmp_path / "model")
    read = fmt(name).read(tmp_path / "model")

    for module, weight in weights(quantized).items():
        torch.testing.assert_close(read[module], weight, rtol=2**-11, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text", "phi3", "opt", "gpt_neox", "falcon", "lfm2"])
@pytest.mark.parametrize("name", ["compressed_tensors", "gptq", "awq"])
def test_every_architecture_of_torchs_own_linears_is_held(tmp_path: Path, name: str, architecture: str) -> None:
    """What does not fit by its sides is named, and what is stored instead is what was evaluated, in bfloat16."""
    quantized = rounded("W4A16g8", architecture)

    written = fmt(name).write(export(quantized), tmp_path / "model", otherwise="bf16")
    read = fmt(name).read(tmp_path / "model")

    for placement in written.placements:
        if (weight := quantized.weights.get(placement.name)) is not None:
            dense = weight.dequantize()
            assert torch.equal(read[placement.name], dense if placement.reason is None else dense.bfloat16().float())
    stored = sum(tensor.nbytes for tensor in tensors(tmp_path / "model").values())
    assert sum(placement.stored_bytes for placement in written.placements) == stored


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    fmt("gptq").write(export(rounded("W4A16g16", **EVEN)), tmp_path / "model")

    assert not [name for name in tensors(tmp_path / "model") if "lm_head" in name]


@pytest.mark.parametrize(
    ("name", "scheme", "settings", "reason"),
    [
        ("compressed_tensors", "W4A16g16", {}, "groups of 16 do not divide its 40 inputs; use groups of 8"),
        ("gptq", "W4A16g16", EVEN | {"intermediate_size": 72}, "do not divide its 72 inputs; use groups of 8"),
        ("awq", "W4A16g8", {}, "its 20 outputs are not a multiple of 8"),
        ("gptq", "W4A16g8", {}, "its 20 outputs are not a multiple of 8"),
        ("gptq", "W3A16g8", {}, "its 40 outputs are not a multiple of 32"),
        ("gptq", "W5A16g8", EVEN, "its codes have 5 bits, expected 2, 3, 4, 8"),
        ("awq", "W8A16g8", EVEN, "its codes have 8 bits, expected 4"),
        ("awq", "NF4g16", EVEN, "its numbers are NF4, and only integers can be stored"),
        ("gptq", "Q4_1", EVEN, "its scales are stored as 'float16 with shift'"),
        (
            "compressed_tensors",
            "NF4g16",
            EVEN,
            "NF4 with float16 scales is not supported; INT, FP8, NVFP4 and MXFP4 are",
        ),
        ("compressed_tensors", "FP8g16", EVEN, "FP8 is supported with one scale per channel only"),
        ("compressed_tensors", "FP4g16", EVEN, "E2M1 with float16 scales is not supported"),
        ("compressed_tensors", "FP8E5M2A16", EVEN, "E5M2 with float32 scales is not supported"),
        ("compressed_tensors", "NVFP4A16", {}, "groups of 16 do not divide its 40 inputs; use groups of 8"),
        ("compressed_tensors", "W4A16g16E8", EVEN, "embeddings and head stay in 16 bits in this format"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, name: str, scheme: str, settings: dict[str, Any], reason: str
) -> None:
    quantized = rounded(scheme, **settings)

    misfits = [placement for placement in fmt(name).place(quantized) if placement.reason is not None]

    assert misfits
    assert not any(placement.exact for placement in misfits)
    assert {placement.stored_as for placement in misfits} == {"bf16"}
    with pytest.raises(RefusedError, match=reason):
        fmt(name).write(export(quantized), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["compressed_tensors", "gptq", "awq"])
@pytest.mark.parametrize(
    ("scheme", "architecture", "method", "reason"),
    [
        ("W4A16g4", "gpt2", "rtn", "linears of gpt2 .* are transposed"),
        ("W4A16KV8g8", "llama", "rtn", "drop the KV part"),
        ("W4A16g8", "llama", "quarot+rtn", "rotates activations while the model runs"),
        ("W4A16g8", "llama", "lqer", "adds a 16-bit side branch"),
        ("W16A8", "llama", "rtn", "rounds activations"),
    ],
)
def test_what_is_done_at_run_time_is_refused(
    name: str, scheme: str, architecture: str, method: str, reason: str
) -> None:
    refusal = fmt(name).refusal(rounded(scheme, architecture, method))

    assert refusal is not None
    assert re.search(reason, refusal)


@pytest.mark.parametrize(
    ("name", "scheme", "reason"),
    [
        ("gptq", "W4A8g8", "W4A8g8 rounds activations"),
        ("awq", "W4A8g8", "W4A8g8 rounds activations"),
        ("compressed_tensors", "W4A4g8", "A4 with W4 weights is not supported"),
        ("compressed_tensors", "FP8AFP8E5M2", "AFP8E5M2 with FP8 weights is not supported"),
        ("compressed_tensors", "NVFP4", "a calibrated per-tensor scale in this format; use NVFP4A16"),
        ("compressed_tensors", "MXFP4", "another rule for the exponent in this format; use MXFP4A16"),
    ],
)
def test_activations_of_another_kind_are_refused(name: str, scheme: str, reason: str) -> None:
    refusal = fmt(name).refusal(rounded(scheme, **EVEN))

    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize("name", ["compressed_tensors", "gptq", "awq"])
def test_a_mixture_is_refused_as_a_folder_says_one_type_for_all_linears(name: str) -> None:
    refusal = fmt(name).refusal(rounded("Q4_K_M", **EVEN))

    assert refusal is not None
    assert "Q4_K_M mixes several types" in refusal
    assert "use GGUF, or Q4_K alone" in refusal


@pytest.mark.parametrize("name", ["compressed_tensors", "gptq", "awq"])
def test_a_bias_that_a_method_made_is_refused(name: str) -> None:
    quantized = rounded("W4A16g8", "llama")
    linear = quantized.model.get_submodule("model.layers.0.mlp.up_proj")
    linear.bias = torch.nn.Parameter(torch.zeros(56))

    refusal = fmt(name).refusal(quantized)

    assert refusal is not None
    assert "added a parameter that llama does not have ('model.layers.0.mlp.up_proj.bias')" in refusal


@pytest.mark.parametrize("name", ["compressed_tensors", "gptq", "awq"])
def test_an_unknown_type_is_answered_with_the_known_one(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown type 'q4'.* Known: bf16"):
        fmt(name).place(rounded("W4A16g16", **EVEN), otherwise="q4")


@pytest.mark.parametrize("name", ["compressed_tensors", "gptq", "awq"])
@pytest.mark.parametrize("damage", ["no config", "missing tensor", "other layout", "other settings"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = fmt(name).write(export(rounded("W4A16g16", **EVEN)), tmp_path / "model").path
    config, file = folder / "config.json", folder / "model.safetensors"
    said = json.loads(config.read_text())
    if damage == "no config":
        config.unlink()
    elif damage == "missing tensor":
        gone = min(part for part in tensors(folder) if part.endswith(("weight_packed", "scales")))
        save_file({part: tensor for part, tensor in tensors(folder).items() if part != gone}, file)
    elif damage == "other layout":
        said["quantization_config"]["quant_method"] = "aqlm"
        config.write_text(json.dumps(said))
    else:
        for settings in (said["quantization_config"], said["quantization_config"].get("config_groups", {})):
            settings.pop("bits", None)
            settings.pop("group_0", None)
        config.write_text(json.dumps(said))

    with pytest.raises(ModelError, match=r"export again|holds 'aqlm' weights"):
        fmt(name).read(folder)
