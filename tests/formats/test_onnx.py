"""An ONNX folder says the codes that were evaluated, or says which it cannot say and why."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import GenerationConfig

pytest.importorskip("onnxruntime_genai", reason="pip install slmquant[onnx]")

from slmquant.errors import ModelError, RefusedError, UnknownNameError
from slmquant.formats.onnx import float_graph
from slmquant.formats.onnx.writer import FORMAT
from tests.formats.gguf_models import export
from tests.formats.onnx_models import quantized, written

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "scheme",
    [
        "W4A16g64-asym",
        "W3A16g16-asym",
        "W8A8",
        "W4A8E8",
        "W8A8-asym",
        "W4A16g16E8",
        "W4A16g16E8-asym",
        "W2A16E2",
        "W8A16-tensor",
    ],
)
def test_reading_gives_back_what_was_evaluated(tmp_path: Path, scheme: str) -> None:
    model = quantized(scheme)

    result = written(model, tmp_path / "model")

    read = FORMAT.read(tmp_path / "model")
    for name, weight in model.weights.items():
        assert torch.equal(read[name], weight.dequantize())
    assert all(placement.exact and placement.reason is None for placement in result.placements)


@pytest.mark.parametrize("architecture", ["phi3", "qwen2", "gemma3_text"])
def test_what_a_model_stacks_and_a_builder_cuts_is_put_together_again(tmp_path: Path, architecture: str) -> None:
    model = quantized("W4A16g32-asym", architecture)

    written(model, tmp_path / "model")

    read = FORMAT.read(tmp_path / "model")
    assert all(torch.equal(read[name], weight.dequantize()) for name, weight in model.weights.items())


def test_a_tied_embedding_lies_in_the_file_once(tmp_path: Path) -> None:
    tied, untied = (
        written(quantized("W4A16g32E8", vocab_size=4096, tie_word_embeddings=tie), tmp_path / str(tie))
        for tie in (True, False)
    )

    embedding = next(p for p in tied.placements if p.name == "model.embed_tokens")
    assert untied.stored_bytes - tied.stored_bytes == pytest.approx(embedding.stored_bytes, rel=0.05)


def test_placements_account_for_the_tensors_of_the_file(tmp_path: Path) -> None:
    result = written(quantized("W4A16g32E4", vocab_size=4096), tmp_path / "model")

    stored = sum(placement.stored_bytes for placement in result.placements)
    data = (tmp_path / "model" / "model.onnx.data").stat().st_size
    assert stored == pytest.approx(data, rel=0.1)  # rotary tables are no weights, and tensors are aligned


@pytest.mark.parametrize(("otherwise", "stored"), [("f16", "f16"), ("int8", "int8")])
def test_what_the_operators_do_not_multiply_becomes_what_the_user_says(
    tmp_path: Path, otherwise: str, stored: str
) -> None:
    model = quantized("NF4g64")

    with pytest.raises(RefusedError, match="MatMulNBits multiplies integers, not NF4"):
        written(model, tmp_path / "model")
    result = written(model, tmp_path / "model", otherwise)

    misfits = [placement for placement in result.placements if placement.reason is not None]
    assert {placement.stored_as for placement in misfits} == {stored}
    assert not any(placement.exact for placement in misfits)  # neither says four-bit floats times any scale
    read = FORMAT.read(tmp_path / "model")
    for name, weight in model.weights.items():
        torch.testing.assert_close(
            read[name], weight.dequantize(), rtol=2**-8, atol=float(read[name].abs().max()) / 200
        )


def test_an_unknown_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="f16, int8"):
        FORMAT.place(quantized("W4A16g32"), "int3")


@pytest.mark.parametrize(
    ("scheme", "architecture", "method", "reason"),
    [
        ("W8A8-static", "llama", "rtn", "not to 8-static"),
        ("W4A4g32", "llama", "rtn", "not to 4"),
        ("W4A16KV4g32", "llama", "rtn", "key-value cache"),
        ("W4A16g32", "bloom", "rtn", "cannot write 'bloom'"),
        ("W4A8", "llama", "quarot+rtn", "while the model runs"),
        ("W4A8g32", "llama", "rtn", "one scale per output channel, not groups of 32"),
        ("FP8", "llama", "rtn", "not to "),
        ("W4A16g32", "llama", "lqer", "16-bit side branch"),
    ],
)
def test_what_the_graph_cannot_do_is_refused(scheme: str, architecture: str, method: str, reason: str) -> None:
    model = quantized(scheme, architecture, method, **({"n_head": 4} if architecture == "bloom" else {}))

    assert reason in (FORMAT.refusal(model) or "")


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder multiplies OLMo's norms, which have no weights: it is not trusted with a name alone."""
    monkeypatch.setattr(float_graph, "MODEL_TYPES", ("olmo",))

    with pytest.raises(RefusedError, match="computes other logits"):
        written(quantized("W4A16g32", "olmo"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    folder = written(quantized("W4A16g32"), tmp_path / "model").path
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        FORMAT.read(folder)

    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="not an ONNX model"):
        FORMAT.read(folder)
    with pytest.raises(ModelError, match="not an ONNX model"):
        FORMAT.read(tmp_path / "absent")


def test_a_version_that_is_not_known_is_not_read(tmp_path: Path) -> None:
    ir = pytest.importorskip("onnx_ir")
    folder = written(quantized("W4A16g32"), tmp_path / "model").path
    model = ir.load(folder / "model.onnx")
    facts = json.loads(model.metadata_props["slmquant"])
    model.metadata_props["slmquant"] = json.dumps({**facts, "version": 2})
    (folder / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())

    with pytest.raises(ModelError, match="version"):
        FORMAT.read(folder)


def test_settings_of_generation_that_have_no_effect_do_no_harm(tmp_path: Path) -> None:
    model = quantized("W4A16g32")
    model.model.generation_config = GenerationConfig(do_sample=False, temperature=0.6, eos_token_id=[2, 3])
    written(model, tmp_path / "model")

    ends = json.loads((tmp_path / "model" / "genai_config.json").read_text())["model"]["eos_token_id"]
    assert ends == [export(model).tokenizer.eos_token_id, 2, 3]


def test_further_chat_templates_are_kept(tmp_path: Path) -> None:
    made = export(quantized("W4A16g32"))
    made.tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    FORMAT.write(made, tmp_path / "model")

    assert any("tool_use" in str(path) for path in (tmp_path / "model").rglob("*"))


@pytest.mark.engine
def test_every_end_of_a_text_ends_a_generation(tmp_path: Path) -> None:
    """What the model writes first, and third, is made one of several ends: there, and not before, it stops."""
    genai = pytest.importorskip("onnxruntime_genai")

    def written_with(ends: list[int], name: str) -> list[int]:
        model = quantized("W8A16g32")
        model.model.generation_config.eos_token_id = ends
        written(model, tmp_path / name)
        return generated(genai, tmp_path / name)

    vocabulary = quantized("W8A16g32").model.config.vocab_size
    freely = written_with([vocabulary - 1, vocabulary - 2], "freely")
    assert len(freely) == 8
    for place in (0, 2):
        ends = [vocabulary - 1, freely[place], vocabulary - 2]
        assert written_with(ends, f"{place}") == freely[: freely.index(freely[place])]


def generated(genai: ModuleType, folder: Path) -> list[int]:
    """Up to eight tokens after a prompt, as GenAI's own loop writes them."""
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=11, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens([1, 3, 4])
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][3:]
