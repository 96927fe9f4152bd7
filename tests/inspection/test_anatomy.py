"""Sizes are those of quantized models, roles and structure those of the architecture."""

from __future__ import annotations

import copy
import functools

import pytest

from slmquant.calib.calibration import NoCalibration
from slmquant.errors import RefusedError
from slmquant.inspection.anatomy import anatomy_of, check_scheme
from slmquant.inspection.roles import roles_of
from slmquant.model.discovery.relations import discover
from slmquant.model.size import count_parameters
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.store.anatomy import Anatomy, LayerFacts
from slmquant.testing.tiny import ARCHITECTURES, tiny

ROLES = {
    "llama": "q k v o gate up down",
    "gemma3_text": "q k v o gate up down",
    "olmo2": "q k v o gate up down",
    "phi": "q k v o up down",
    "phi3": "qkv o up down",
    "gpt2": "qkv o up down",
    "gpt_neo": "q k v o up down",
    "gpt_neox": "qkv o up down",
    "opt": "q k v o up down",
    "bloom": "qkv o up down",
    "falcon": "qkv o up down",
    "mpt": "qkv o up down",
    "gptj": "q k v o up down",
    "starcoder2": "q k v o up down",
    "nemotron": "q k v o up down",
}


@functools.cache
def anatomy(name: str) -> Anatomy:
    model = tiny(name)
    return anatomy_of(model, discover(model), [])


@functools.cache
def layer(name: str, number: int = 0) -> LayerFacts:
    return anatomy(name).layers[number]


@pytest.mark.parametrize(
    "scheme",
    [
        "W8A16", "W4A16g32-asym", "W4A16g32E8", "W3A16g48", "W1.58A16g32", "W8A16-tensor", "FP8A16", "FP8-tensor",
        "FP6g64", "MXFP4A16", "NVFP4", "NF4g32-dq", "Q8_0", "Q4_1", "Q4_K", "Q6_KE4", "IQ4_NL", "Q4_K_M", "Q4_0_M",
    ],
)  # fmt: skip
def test_predicted_bytes_are_those_of_the_quantized_model(scheme: str) -> None:
    model = tiny("llama", hidden_size=64, intermediate_size=96)
    parsed = parse(scheme)
    plain, size = anatomy_of(model, discover(model), [parsed]).schemes

    made = quantize_(copy.deepcopy(model), "rtn", parsed, NoCalibration()).size

    assert (size.scheme, size.stored_bytes) == (str(parsed), made.stored_bytes)
    assert size.bpw == pytest.approx(made.bpw)
    assert plain.stored_bytes == 2 * count_parameters(model) > size.stored_bytes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_roles_have_every_parameter_once(name: str) -> None:
    found = anatomy(name)

    assert sum(size.parameters for size in found.roles) == found.parameters == count_parameters(tiny(name))
    assert sum(size.stored_bytes["W16A16"] for size in found.roles) == found.schemes[0].stored_bytes
    assert found.tied == (next(size for size in found.roles if size.role == "head").parameters == 0)


@pytest.mark.parametrize("name", ROLES)
def test_roles_are_those_of_the_architecture(name: str) -> None:
    model = tiny(name)
    relations = discover(model)
    first = [role for role, block in roles_of(model, relations).values() if block == 0]

    assert sorted(first) == sorted(ROLES[name].split())


def test_a_scheme_that_fits_no_row_is_remarked() -> None:
    model = tiny("llama", hidden_size=40)
    sizes = anatomy_of(model, discover(model), [parse("Q4_K"), parse("W4A16g64"), parse("W8A16")]).schemes

    assert sizes[1].remark is not None and "40 inputs are not a multiple of 256" in sizes[1].remark
    assert sizes[2].remark is not None and "only 40 inputs" in sizes[2].remark and "more" in sizes[2].remark
    assert sizes[3].remark is None


def test_a_type_that_nothing_rounds_to_is_refused() -> None:
    with pytest.raises(RefusedError, match="IQ2_XXS is not supported"):
        check_scheme(parse("IQ2_XXS"))


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("llama", ["rotary", "rotary"]),
        ("smollm3", ["rotary", "rotary", "rotary", "none"]),
        ("gpt2", ["learned", "learned"]),
        ("opt", ["learned", "learned"]),
        ("bloom", ["ALiBi", "ALiBi"]),
        ("falcon-alibi", ["ALiBi", "ALiBi"]),
        ("phi", ["rotary", "rotary"]),
        ("gpt_neox", ["rotary", "rotary"]),
        ("mamba", [None, None]),
        ("lfm2", [None, "rotary", None]),
    ],
)
def test_positions_are_found_layer_by_layer(name: str, positions: list[str | None]) -> None:
    assert [one.positions for one in anatomy(name).layers] == positions


def test_rotary_embeddings_have_their_names() -> None:
    assert layer("llama").rotary_type == "default"
    assert layer("llama-yarn").rotary_type == "yarn"
    assert layer("gpt2").rotary_type is None


def test_windows_differ_from_layer_to_layer() -> None:
    assert [one.window for one in anatomy("gemma3_text").layers] == [8, 8, 8, 8, 8, None]
    assert [one.window for one in anatomy("gpt_neo").layers] == [None, 5]
    assert layer("mistral").window == 8
    assert layer("llama").window is None


def test_heads_norms_gates_and_biases_are_found() -> None:
    llama, plain = layer("llama"), layer("gpt2")

    assert (llama.query_heads, llama.key_heads, llama.head_size, llama.group_size) == (4, 2, 10, 2)
    assert (plain.query_heads, plain.key_heads, plain.group_size) == (3, 3, 1)
    assert llama.gated and layer("phi3").gated and not plain.gated
    assert not llama.qk_norm
    assert all(layer(name).qk_norm for name in ("qwen3", "olmo2", "gemma3_text", "stablelm-parallel", "cohere-norm"))
    assert layer("qwen2").biases == ("q", "k", "v")
    assert llama.biases == ()
    assert set(plain.biases) == {"qkv", "o", "up", "down"}
