"""A GGUF file gives back the weights that were evaluated, or is not written; what does not fit is named."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from slmquant.errors import ModelError, RefusedError, UnknownNameError
from slmquant.formats.gguf.reader import context_length
from slmquant.formats.gguf.writer import FORMAT, Gguf
from slmquant.model.gguf.architectures import ARCHITECTURES, row_order
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import MODELS, export, quantized
from tests.narrowed import present

pytestmark = pytest.mark.usefixtures("known_tokenizers")


@pytest.mark.parametrize("name", MODELS)
def test_reading_gives_back_every_parameter(tmp_path: Path, name: str) -> None:
    made = quantized(name, "rtn", "W4A16g32E8")

    FORMAT.write(export(made), tmp_path / "model.gguf")
    read = FORMAT.read(tmp_path / "model.gguf")

    rest = {
        full.removesuffix(".weight"): value
        for full, value in made.model.named_parameters()
        if full.removesuffix(".weight") not in made.weights
    }
    assert set(read) == set(made.weights) | set(rest)
    for module, weight in made.weights.items():
        assert torch.equal(read[module], weight.dequantize()), module
    for module, value in rest.items():
        torch.testing.assert_close(read[module], value.detach(), rtol=1e-3, atol=1e-6, msg=module)


def test_every_architecture_is_tried() -> None:
    assert {str(tiny(base).config.model_type) for base, _ in MODELS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("rows", ["interleaved", "apart"])
def test_rows_are_only_put_in_another_order(rows: str) -> None:
    order = row_order(rows, 48, 4)  # type: ignore[arg-type]

    assert sorted(order.tolist()) == list(range(48))
    assert order[:3].tolist() == ([0, 6, 1] if rows == "interleaved" else [0, 1, 2])


def test_the_file_takes_what_the_placements_say(tmp_path: Path) -> None:
    made = quantized("llama", "rtn", "W4A16g32E8")

    written = FORMAT.write(export(made), tmp_path / "model.gguf")

    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert sum(int(tensor.n_bytes) for tensor in reader.tensors) == sum(p.stored_bytes for p in written.placements)
    assert {p.stored_as for p in written.placements} == {"Q4_0", "Q8_0", "F32"}
    assert all(p.exact for p in written.placements)
    assert "output.weight" not in {tensor.name for tensor in reader.tensors}  # tied


def test_the_file_says_what_it_was_made_of(tmp_path: Path) -> None:
    FORMAT.write(export(quantized("qwen2", "rtn", "W4A16g32")), tmp_path / "model.gguf")

    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    said = {name: present(reader.get_field(name)).contents() for name in reader.fields if not name.startswith("GGUF.")}

    assert said["general.architecture"] == "qwen2"
    assert said["slmquant.method"] == "rtn"
    assert said["slmquant.scheme"] == "W4A16g32"
    assert said["slmquant.source_sha256"] == "0" * 64
    assert said["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert said["tokenizer.ggml.model"] == "gpt2"


def test_what_does_not_fit_is_named_with_its_share_and_stored_as_the_user_says(tmp_path: Path) -> None:
    made = quantized("llama", "rtn", "Q4_K")  # rows of 96 hold no super-block

    with pytest.raises(RefusedError, match=r"q_proj' and 13 more, 95\.\d% of the weights.*multiple of 256.*otherwise"):
        FORMAT.write(export(made), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()

    for otherwise, exact, tolerance in (("q8_0", False, 0.01), ("f16", False, 1e-3), ("f32", True, 0.0)):
        written = FORMAT.write(export(made), tmp_path / "model.gguf", otherwise)
        read = FORMAT.read(tmp_path / "model.gguf")
        misfits = [placement for placement in written.placements if placement.reason]
        assert {placement.stored_as for placement in misfits} == {otherwise.upper()}
        assert all(placement.exact is exact for placement in misfits)
        for placement in misfits:
            dense = made.weights[placement.name].dequantize()
            assert (read[placement.name] - dense).abs().max() <= tolerance * dense.abs().max()


def test_an_unknown_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="q8_0"):
        FORMAT.place(quantized("llama"), "q7_0")


def test_what_float16_cannot_hold_becomes_bfloat16(tmp_path: Path) -> None:
    made = quantized("llama")
    with torch.no_grad():
        made.model.get_input_embeddings().get_parameter("weight")[0, 0] = 1e6

    written = FORMAT.write(export(made), tmp_path / "model.gguf")

    stored = {placement.name: placement.stored_as for placement in written.placements}
    assert stored["model.embed_tokens"] == "BF16"
    assert stored["model.layers.0.mlp.up_proj"] == "F16"
    assert float(FORMAT.read(tmp_path / "model.gguf")["model.embed_tokens"][0, 0]) == pytest.approx(1e6, rel=0.01)


@pytest.mark.parametrize(
    ("method", "scheme", "said"),
    [
        ("rtn", "W8A8", "rounds activations"),
        ("rtn", "W4A16KV4g32", "cache"),
        ("quarot", "W4A16g32", "rotates activations while the model runs"),
        ("lqer", "W4A16g32", "16-bit side branch"),
    ],
)
def test_what_no_graph_computes_is_refused(tmp_path: Path, method: str, scheme: str, said: str) -> None:
    made = quantized("llama", method, scheme)

    assert said in str(FORMAT.refusal(made))
    with pytest.raises(RefusedError, match="gguf: "):
        FORMAT.write(export(made), tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act = silu"),
        ("gemma3_text", {"query_pre_attn_scalar": 256}, "root of head_dim"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "layer 0"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("gemma2", {"final_logit_softcapping": None}, "with final_logit_softcapping, this model has none"),
        ("gemma3_text", {"final_logit_softcapping": 2.0}, "final_logit_softcapping = None"),
        ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 1]}, "in layers [1, 1, 1, 0]"),
        ("phi", {"tie_word_embeddings": True}, "needs a separate head"),
        ("starcoder2", {"use_bias": False}, "use_bias = True"),
    ],
)
def test_a_setting_that_no_graph_has_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    assert said in str(FORMAT.refusal(quantized(name, **settings)))


@pytest.mark.parametrize(("window", "context"), [(None, 64), (16, 16)])
def test_a_file_promises_no_more_than_the_graph_does_right(tmp_path: Path, window: int | None, context: int) -> None:
    """llama.cpp's phi3 has no windows."""
    path = tmp_path / "model.gguf"
    FORMAT.write(export(quantized("phi3", sliding_window=window, max_position_embeddings=64)), path)

    assert context_length(path) == context


def test_an_architecture_that_is_not_known_is_refused() -> None:
    made = quantized("llama")
    setattr(made.model.config, "model_type", "bloom")  # noqa: B010  # a class variable of its class

    assert "'bloom' is not supported" in str(FORMAT.refusal(made))


def test_a_bias_that_the_graph_lacks_is_refused() -> None:
    made = quantized("qwen2")
    made.model.model.layers[0].mlp.up_proj.bias = torch.nn.Parameter(torch.ones(160))

    assert "adds no bias to 'model.layers.0.mlp.up_proj'" in str(FORMAT.refusal(made))


def test_several_chat_templates_are_kept_by_name(tmp_path: Path) -> None:
    made = export(quantized("llama"))
    made.tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    FORMAT.write(made, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")

    assert present(reader.get_field("tokenizer.chat_template")).contents() == "{{ messages }}"
    assert present(reader.get_field("tokenizer.chat_template.tool_use")).contents() == "{{ tools }}"


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    FORMAT.write(export(quantized("llama")), path)
    whole = path.read_bytes()
    newer = whole[:4] + (9).to_bytes(4, "little") + whole[8:]

    for damaged in (whole[:-200], whole[:20], b"", b"nothing of the kind", newer):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"truncated|unknown version"):
            FORMAT.read(path)


def test_a_file_of_another_program_is_said_to_be(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.add_name("other")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ModelError, match="not exported by this version of slmquant"):
        FORMAT.read(tmp_path / "other.gguf")


def test_float32_files_hold_every_weight_as_it_is(tmp_path: Path) -> None:
    made = quantized("olmo2")

    Gguf("F32").write(export(made), tmp_path / "model.gguf")
    read = FORMAT.read(tmp_path / "model.gguf")

    for full, value in made.model.named_parameters():
        assert torch.equal(read[full.removesuffix(".weight")], value.detach())
