"""An OpenVINO IR says the codes that were evaluated, to the last bit, or says why it cannot."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from slmquant.errors import ModelError, RefusedError, UnknownNameError
from slmquant.formats import load
from slmquant.formats.openvino import writer
from slmquant.formats.openvino.layout import Part, compress, floats, misfit, nearest_i8
from slmquant.formats.openvino.trace import trace
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse
from slmquant.testing.method_contract import quantized
from tests.formats.gguf_models import export

# not `importorskip`: importing openvino from here would report to its maker, see `formats.openvino.runtime`
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("openvino") is None, reason="needs slmquant[openvino]"),
]


@pytest.mark.parametrize(
    "scheme",
    [
        "W2A16g8-asym",
        "W3A16g8",
        "W4A16g16-asym",  # 16 divides neither 40 nor 56 inputs, 8 divides all of them
        "W4A16g16E8",
        "W5A16g8-asym",
        "W8A16",
        "W8A16-tensor",
        "NF4g8",
        "NF4g8-dq",
        "W1.58A16g8",
        "FP8A16",
        "MXFP4A16",
        "FP6g8",
        "Q4_1",
        "Q4_K",
    ],
)
def test_the_file_says_the_very_weights_that_were_evaluated(tmp_path: Path, scheme: str) -> None:
    model, fmt = quantized("rtn", scheme), load("openvino")

    written = fmt.write(export(model), tmp_path / "model")
    read = fmt.read(tmp_path / "model")

    for name, weight in model.weights.items():
        table = (
            3e-7 * float(weight.scale.max()) if scheme.startswith("NF4") else 0
        )  # its table is within 1.8e-7 of ours
        assert float((read[name] - weight.dequantize()).abs().max()) <= table, name
    assert all(placement.exact for placement in written.placements if placement.name in model.weights)


def test_a_real_zero_point_is_kept_as_it_is(tmp_path: Path) -> None:
    model = quantized("hqq", "W4A16g8-asym")

    load("openvino").write(export(model), tmp_path / "model")

    read = load("openvino").read(tmp_path / "model")
    assert all(torch.equal(read[name], weight.dequantize()) for name, weight in model.weights.items())


def test_placements_account_for_the_file_and_a_tied_weight_once(tmp_path: Path) -> None:
    model = quantized("rtn", "W4A16g8E8")

    written = load("openvino").write(export(model), tmp_path / "model")

    assert [p.name for p in written.placements].count("model.embed_tokens") == 1
    assert not any(p.name == "lm_head" for p in written.placements)
    constants = (tmp_path / "model" / "openvino_model.bin").stat().st_size
    stored = sum(p.stored_bytes for p in written.placements)
    assert stored <= constants < stored + 4096  # the graph has a few numbers of its own, and constants are aligned


def test_groups_that_share_no_size_with_the_inputs_are_named_and_may_be_stored_otherwise(tmp_path: Path) -> None:
    model, fmt = quantized("rtn", "W4A16g7"), load("openvino")

    with pytest.raises(RefusedError, match=r"groups of 7 do not divide 40 inputs; groups of 8, 10, 20, 40 do"):
        fmt.write(export(model), tmp_path / "model")

    exact = fmt.write(export(model), tmp_path / "exact", "f32")
    read = fmt.read(tmp_path / "exact")
    assert all(torch.equal(read[name], weight.dequantize()) for name, weight in model.weights.items())
    assert {p.exact for p in exact.placements if p.reason} == {True}
    rounded = fmt.place(model, "i8")
    assert any(p.reason and not p.exact and p.stored_as == "i8" for p in rounded)
    with pytest.raises(UnknownNameError, match="f16"):
        fmt.place(model, "i9")


@pytest.mark.parametrize(
    ("method", "scheme", "said"),
    [
        ("rtn", "W8A8", "does not round activations to 8"),
        ("rtn", "W4A16KV8g8", "key-value cache"),
        ("quarot+rtn", "W4A16g8", "rotates activations while the model runs"),
        ("lqer", "W4A16g8", "branch"),
    ],
)
def test_what_the_graph_cannot_do_is_refused(tmp_path: Path, method: str, scheme: str, said: str) -> None:
    model = quantized(method, scheme)
    if method == "quarot+rtn" and not model.online:
        pytest.skip("every rotation was merged")

    with pytest.raises(RefusedError, match=said):
        load("openvino").write(export(model), tmp_path / "model")


@pytest.mark.parametrize("architecture", ["mamba", "lfm2"])
def test_states_besides_keys_and_values_are_refused(architecture: str) -> None:
    reason = load("openvino").refusal(quantized("none", "W16A16", architecture))

    assert reason is not None
    assert "states besides keys and values" in reason


def test_the_model_is_as_it_was_afterwards(tmp_path: Path) -> None:
    model = quantized("rtn", "W4A16g12", "gpt2")
    before, tokens = dict(model.model.named_modules()), torch.arange(12)[None]
    with torch.no_grad():
        logits = model.model(tokens).logits

    load("openvino").write(export(model), tmp_path / "model")

    assert dict(model.model.named_modules()) == before
    with torch.no_grad():
        assert torch.equal(model.model(tokens).logits, logits)


@pytest.mark.parametrize("damage", ["truncated", "newer", "foreign", "empty"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    folder = load("openvino").write(export(quantized("rtn", "W4A16g8")), tmp_path / "m").path
    graph, constants = folder / "openvino_model.xml", folder / "openvino_model.bin"
    if damage == "truncated":
        constants.write_bytes(constants.read_bytes()[:-1000])
    elif damage == "newer":
        graph.write_text(graph.read_text().replace('<version value="1" />', '<version value="99" />'))
    elif damage == "foreign":
        graph.write_text(graph.read_text().replace("<slmquant>", "<other>").replace("</slmquant>", "</other>"))
    else:
        graph.unlink()

    with pytest.raises(ModelError, match=r"export|update"):
        load("openvino").read(folder)


@pytest.mark.parametrize("group_size", [8, 16, 24, 33, 100])
def test_repeated_scales_say_the_same_weight(group_size: int) -> None:
    model = quantized("rtn", "W4A16g8")
    weight = next(iter(model.weights.values()))
    grid = type(weight.grid)(4, symmetric=False, group_size=group_size, scale_bits=16)
    W = torch.randn(6, 48, generator=torch.Generator().manual_seed(group_size))
    rounded = grid.quantize(W)
    if misfit(rounded) is not None:
        assert group_size == 33
        return

    stored = compress(rounded)

    assert stored.zero_point is not None
    codes, zero_point, scale = (p.values.float() for p in (stored.codes, stored.zero_point, stored.scale))
    assert torch.equal(((codes - zero_point) * scale).reshape(6, 48), rounded.dequantize())


def test_scales_take_16_bits_only_where_those_say_them() -> None:
    assert floats(torch.tensor([[0.5, 3.0]])).type == "f16"
    assert floats(torch.tensor([[0.1]])).type == "f32"
    assert floats(torch.tensor([[1e6]])).type == "f32"


def test_rounding_anew_stays_within_half_a_step() -> None:
    W = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    W[2] = 0

    stored = nearest_i8(W)

    scale = stored.scale.values.float()
    error = (stored.codes.values * scale - W).abs()
    assert (error <= scale * 0.5 * 1.15).all()  # the largest weight meets a scale that was rounded to 16 bits
    assert isinstance(stored.codes, Part)


def test_rotary_frequencies_that_change_with_the_length_are_refused() -> None:
    model = quantized("rtn", "W4A16g8")
    model.model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}

    assert "'dynamic' scaling changes" in str(load("openvino").refusal(model))


def test_settings_of_generation_that_have_no_effect_are_kept(tmp_path: Path) -> None:
    model = quantized("rtn", "W4A16g8")
    model.model.generation_config = GenerationConfig(do_sample=False, temperature=0.6)
    load("openvino").write(export(model), tmp_path / "model")

    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["temperature"] == 0.6


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one that was traced with the weights of another model."""
    model = quantized("rtn", "W8A16")

    def of_another(traced: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> object:
        return trace(traced, {name: 2 * weight for name, weight in weights.items()})

    monkeypatch.setattr(writer, "trace", of_another)

    with pytest.raises(RefusedError, match="computes other logits than the model"):
        load("openvino").write(export(model), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_float16_cannot_hold_stays_in_float32() -> None:
    wide = torch.tensor([[1.0, 7e4]])

    kept, rounded = writer._dense(wide, None), writer._dense(wide / 10, None)

    assert isinstance(kept, Part) and kept.type == "f32"
    assert isinstance(rounded, Part) and rounded.type == "f16"


def test_every_end_of_a_text_is_in_the_folder(tmp_path: Path) -> None:
    """transformers takes them from `eos_token_id`, OpenVINO GenAI, which reads a single number there, from its own."""
    model = quantized("rtn", "W8A16g8")
    model.model.generation_config.eos_token_id = [2, 5, 7]
    load("openvino").write(export(model), tmp_path / "m")
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == [2, 5, 7]
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["stop_token_ids"] == [2, 5, 7]


@pytest.mark.parametrize("scheme", ["IQ4_NL", "IQ3_S"])
def test_numbers_without_a_type_of_openvino_are_named(scheme: str) -> None:
    spec = parse(scheme).weights
    assert spec is not None
    weight = grid_of(spec).quantize(torch.randn(2, 256, generator=torch.Generator().manual_seed(0)))

    assert misfit(weight) == f"OpenVINO has no type for the numbers of {scheme}"
