"""ONNX Runtime computes what was evaluated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime_genai", reason="pip install slmquant[onnx]")

from slmquant import api
from slmquant.artifact import Artifact
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.engines.common.contract import OpenOptions
from slmquant.engines.onnxruntime import ENGINE
from slmquant.errors import ModelError
from slmquant.formats.onnx import rewrite
from slmquant.formats.onnx.writer import FORMAT
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.testing.tiny import VOCABULARY
from tests.formats.onnx_models import SETTINGS, quantized, written

pytestmark = pytest.mark.engine

TOKENS = torch.randint(0, VOCABULARY, (45,), generator=torch.Generator().manual_seed(3))


def divergence(model: QuantizedModel, logits: np.ndarray, tokens: torch.Tensor = TOKENS) -> float:
    """Mean KL of the torch reference to the engine, in nats."""
    with torch.no_grad():
        expected = model.model(tokens[None]).logits[0].log_softmax(-1)
    return float((expected.exp() * (expected - torch.from_numpy(logits).log_softmax(-1))).sum(-1).mean())


@pytest.mark.parametrize("architecture", SETTINGS)
def test_every_architecture_computes_what_was_evaluated(tmp_path: Path, architecture: str) -> None:
    """Inputs rounded to 8 bits by the engine are the difference that is left; windows of 8 tokens slide."""
    model = quantized("W4A16g32", architecture)
    session = ENGINE.open(written(model, tmp_path / "model").path, OpenOptions(threads=1, context=64))

    assert divergence(model, session.feed(TOKENS.tolist(), every=True)) < 2e-3


@pytest.mark.parametrize("scheme", ["W4A16g16-asym", "W8A16", "W4A16g16E8-asym", "W4A16E4"])
@pytest.mark.parametrize("tied", [True, False])
def test_nothing_but_the_rounding_of_inputs_is_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, tied: bool
) -> None:
    monkeypatch.setattr(rewrite, "ACCURACY_LEVEL", 1)
    model = quantized(scheme, tie_word_embeddings=tied)
    session = ENGINE.open(written(model, tmp_path / "model").path, OpenOptions(threads=1, context=64))

    assert divergence(model, session.feed(TOKENS.tolist(), every=True)) < 2e-6


@pytest.mark.parametrize("scheme", ["W8A8E8", "W8A8E8-asym", "W4A8E8"])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma3_text"])
def test_activations_of_eight_bits_are_rounded_as_evaluated(tmp_path: Path, scheme: str, architecture: str) -> None:
    model = quantized(scheme, architecture)
    session = ENGINE.open(written(model, tmp_path / "model").path, OpenOptions(threads=1, context=64))

    assert (
        divergence(model, session.feed(TOKENS.tolist(), every=True)) < 5e-5
    )  # a code at the middle of two may fall to either side


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text"])
def test_onnx_runtime_genai_writes_the_same_from_the_same_folder(tmp_path: Path, architecture: str) -> None:
    import onnxruntime_genai as genai

    folder = written(quantized("W4A16g32", architecture), tmp_path / "model").path
    session = ENGINE.open(folder, OpenOptions(threads=1, context=64))
    start, length = TOKENS[:9].tolist(), 20
    ours = list(start)
    logits = session.feed(start)
    while len(ours) < length:
        ours.append(int(np.argmax(logits[-1])))
        logits = session.feed(ours[-1:])

    model = genai.Model(str(folder))
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=length, do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array(start, dtype=np.int32))
    while not generator.is_done() and generator.token_count() < length:
        generator.generate_next_token()

    theirs = generator.get_sequence(0).tolist()
    assert len(theirs) > len(start) and theirs == ours[: len(theirs)]  # it ends where a model says that it does


def test_real_zero_points_run(tmp_path: Path) -> None:
    model = quantized("W4A16g32-asym", method="hqq")
    session = ENGINE.open(written(model, tmp_path / "model").path, OpenOptions(threads=1, context=64))

    assert divergence(model, session.feed(TOKENS.tolist(), every=True)) < 2e-3


def test_projections_of_different_types_run_side_by_side(tmp_path: Path) -> None:
    """The builder stacks the three that read the same input; one matrix cannot be of two types."""
    model, wide = quantized("W4A16g32"), quantized("W8A16g32")
    name = "model.layers.0.self_attn.v_proj"
    model.model.set_submodule(name, wide.model.get_submodule(name))
    mixed = replace(model, weights={**model.weights, name: wide.weights[name]})

    session = ENGINE.open(written(mixed, tmp_path / "model").path, OpenOptions(threads=1, context=64))

    assert divergence(mixed, session.feed(TOKENS.tolist(), every=True)) < 2e-3


def test_a_sequence_is_the_same_however_it_is_fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "ACCURACY_LEVEL", 1)
    model = quantized("W4A16g32", "gemma3_text")
    session = ENGINE.open(written(model, tmp_path / "model").path, OpenOptions(threads=1, context=45))
    whole = session.feed(TOKENS.tolist(), every=True)

    session.reset()
    last = session.feed(TOKENS[:40].tolist())  # without the head but for the last token
    steps = [session.feed([int(token)]) for token in TOKENS[40:]]

    assert last.shape == (1, VOCABULARY) == (1, session.vocab)
    np.testing.assert_allclose(np.concatenate([last, *steps]), whole[39:], atol=1e-4)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = written(quantized("W4A16g32"), tmp_path / "model").path
    options = OpenOptions(threads=1, context=8)
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be opened by ONNX Runtime"):
        ENGINE.open(folder, options)
    (folder / "genai_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is not an ONNX Runtime GenAI model"):
        ENGINE.open(folder, options)


def test_the_engine_says_its_version() -> None:
    status = ENGINE.status()

    assert status.usable
    assert (status.version or "").startswith("onnxruntime 1.")


@pytest.mark.real_model
def test_a_real_model_stays_within_what_rounded_inputs_cost(tmp_path: Path) -> None:
    made = api.quantize("smollm2-135m-instruct", "rtn", "W4A16g32-asym", dtype="float32")
    folder = tmp_path / "model"
    FORMAT.write(Artifact(made.quantized, made.tokenizer, made.source, made.source_sha256), folder)
    tokens = text_tokens(made.tokenizer, load_corpus("wikitext2_test").text)[:256]

    session = ENGINE.open(folder, OpenOptions(threads=1, context=256))

    assert divergence(made.quantized, session.feed(tokens.tolist(), every=True), tokens) < 0.01
