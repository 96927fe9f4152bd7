"""A mixture from a file is what its weights are rounded to, stored as, and read back as."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from slmquant.calib.calibration import FreshCalibration
from slmquant.formats import native
from slmquant.formats.gguf.writer import FORMAT
from slmquant.methods.common.mixed import described
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme, parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import export

SIDES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}


def mixed(method: str, tied: bool = True, **other: str) -> QuantizedModel:
    """A tiny model in Q4_0 whose types were changed in some places."""
    model = tiny("llama", tie_word_embeddings=tied, **SIDES)
    types = {name: kind.type for name, kind in described(parse("Q4_0E8"), discover(model), model).items()}
    for place, kind in other.items():
        for name in types:
            if name.endswith(place):
                types[name] = kind
    scheme = Scheme.of_table({name: parse(kind).weights for name, kind in types.items()})
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent())
    return quantize_(model, method, scheme, calibration)


@pytest.mark.parametrize("method", ["rtn", "gptq_mse", "gptq_sequential"])
def test_a_file_holds_each_weight_in_its_type(tmp_path: Path, method: str) -> None:
    made = mixed(method, v_proj="Q8_0", down_proj="Q6_K", gate_proj="IQ4_NL", embed_tokens="W16A16")

    FORMAT.write(export(made), tmp_path / "model.gguf")

    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    stored = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert stored["blk.0.attn_v.weight"] == "Q8_0"
    assert stored["blk.1.ffn_down.weight"] == "Q6_K"
    assert stored["blk.0.ffn_gate.weight"] == "IQ4_NL"
    assert stored["token_embd.weight"] == "F16"
    assert stored["blk.0.attn_q.weight"] == "Q4_0"
    types = json.loads(str(reader.fields["slmquant.mixture"].contents()))
    assert types == made.scheme.listed
    read = FORMAT.read(tmp_path / "model.gguf")
    assert all(torch.equal(read[name], weight.dequantize()) for name, weight in made.weights.items())


@pytest.mark.parametrize("kind", ["IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S"])
@pytest.mark.parametrize("method", ["rtn", "gptq_mse", "gptaq_mse", "kquant", "awq"])
def test_codebooks_are_in_the_file_what_was_evaluated(tmp_path: Path, method: str, kind: str) -> None:
    made = mixed(method, down_proj=kind)
    FORMAT.write(export(made), tmp_path / "model.gguf")
    native.save(export(made), tmp_path / "model")

    read, own = FORMAT.read(tmp_path / "model.gguf"), native.load(tmp_path / "model").quantized.weights

    stored = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert stored["blk.0.ffn_down.weight"] == kind
    for name, weight in made.weights.items():
        assert torch.equal(read[name], weight.dequantize())
        assert torch.equal(own[name].dequantize(), weight.dequantize())


def test_embedding_and_head_may_differ(tmp_path: Path) -> None:
    made = mixed("rtn", tied=False, embed_tokens="Q4_0", lm_head="W16A16")

    FORMAT.write(export(made), tmp_path / "model.gguf")

    stored = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert (stored["token_embd.weight"], stored["output.weight"]) == ("Q4_0", "F16")


def test_our_own_format_gives_the_mixture_back(tmp_path: Path) -> None:
    made = mixed("rtn", v_proj="Q8_0", down_proj="W3A16g32-asym")
    native.save(export(made), tmp_path / "model")

    read = native.load(tmp_path / "model").quantized

    assert read.scheme == made.scheme and read.size == made.size
    assert all(torch.equal(read.weights[name].codes, weight.codes) for name, weight in made.weights.items())
