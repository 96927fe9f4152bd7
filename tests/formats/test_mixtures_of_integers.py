"""Formats with a type for each linear hold a mixture of integers, and engines compute with it."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from slmquant import formats
from slmquant.calib.calibration import FreshCalibration
from slmquant.engines.common.contract import OpenOptions
from slmquant.errors import ModelError
from slmquant.formats.common.checkpoint_reader import read_model
from slmquant.methods.common.mixed import described
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.packed_layouts import of_module
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme, parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import export

PACKAGES = {"compressed_tensors": "compressed_tensors", "onnx": "onnxruntime_genai", "openvino": "openvino"}
MIXED = {"v_proj": "W8A16", "down_proj": "W4A16g32-asym", "o_proj": "W8A16g32"}
SIDES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def mixed(kinds: dict[str, str]) -> QuantizedModel:
    """A tiny model in W4A16g32 with other types in some places; all else holds numbers of bfloat16."""
    model = tiny("llama", **SIDES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    types = {name: kind.type for name, kind in described(parse("W4A16g32"), discover(model), model).items()}
    types |= {name: kind for name in types for place, kind in kinds.items() if name.endswith(place)}
    scheme = Scheme.of_table({name: parse(kind).weights for name, kind in types.items()})
    return quantize_(model, "rtn", scheme, FreshCalibration(model, calibration_tokens(), torch.float32, Silent()))


@pytest.mark.engine
@pytest.mark.parametrize("name", PACKAGES)
def test_a_file_holds_each_weight_in_its_type(tmp_path: Path, name: str) -> None:
    if find_spec(PACKAGES[name]) is None:
        pytest.skip(f"needs slmquant[{name}]")
    model, fmt = mixed(MIXED), formats.load(name)

    written = fmt.write(export(model), tmp_path / "model")

    read = fmt.read(tmp_path / "model")
    assert all(torch.equal(read[place], weight.dequantize()) for place, weight in model.weights.items())
    assert all(placement.exact for placement in written.placements if placement.name in model.weights)


@pytest.mark.engine
@pytest.mark.skipif(find_spec("compressed_tensors") is None, reason="needs slmquant[compressed-tensors]")
@pytest.mark.parametrize("kinds", [{"v_proj": "W8A16", "o_proj": "W3A16g32"}, {"o_proj": "FP8A16"}])
def test_transformers_computes_with_each_type(tmp_path: Path, kinds: dict[str, str]) -> None:
    from slmquant.engines import transformers

    model, tokens = mixed(kinds), calibration_tokens(1)
    formats.load("compressed_tensors").write(export(model), tmp_path / "model")

    session = transformers.ENGINE.open(tmp_path / "model", OpenOptions(threads=1, context=64))
    computed = torch.from_numpy(session.feed(tokens[0].tolist(), every=True))
    with torch.no_grad():
        expected = model.model(tokens).logits[0]
        ours = read_model(tmp_path / "model")(tokens).logits[0]

    torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    groups = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert len(groups) == len(kinds) + 1


@pytest.mark.engine
@pytest.mark.skipif(find_spec("compressed_tensors") is None, reason="needs slmquant[compressed-tensors]")
def test_transformers_is_refused_a_mixture_that_it_does_not_unpack(tmp_path: Path) -> None:
    from slmquant.engines import transformers

    formats.load("compressed_tensors").write(export(mixed(MIXED)), tmp_path / "model")

    with pytest.raises(ModelError, match=r"mixes types.* symmetric integers"):
        transformers.ENGINE.open(tmp_path / "model", OpenOptions(threads=1, context=64))


@pytest.mark.parametrize(("name", "others"), [("gptq", "compressed-tensors"), ("awq", "compressed-tensors")])
def test_a_format_of_one_type_refuses_a_mixture_and_names_others(name: str, others: str) -> None:
    refusal = formats.load(name).refusal(mixed(MIXED))

    assert refusal is not None
    assert f"use GGUF or {others}" in refusal


def test_a_module_is_described_by_its_name_then_a_pattern_then_its_class() -> None:
    groups: dict[str, Any] = {
        "any": {"targets": ["Linear"], "weights": {"num_bits": 4}},
        "values": {"targets": ["re:.*v_proj"], "weights": {"num_bits": 8}, "format": "int-quantized"},
        "one": {"targets": ["a.v_proj"], "weights": {"num_bits": 2}},
    }
    settings: dict[str, Any] = {"format": "pack-quantized", "config_groups": groups}

    def bits(module: str) -> tuple[str, int, str]:
        ((name, group),) = of_module(settings, module)["config_groups"].items()  # type: ignore[union-attr]  # an object
        return name, group["weights"]["num_bits"], group["format"]  # type: ignore[index, call-overload, return-value]

    assert bits("a.v_proj") == ("one", 2, "pack-quantized")
    assert bits("b.v_proj") == ("values", 8, "int-quantized")
    assert bits("b.q_proj") == ("any", 4, "pack-quantized")
    del groups["any"]
    with pytest.raises(ValueError, match=r"'b\.q_proj' has packed tensors and belongs to none of the groups"):
        of_module(settings, "b.q_proj")
