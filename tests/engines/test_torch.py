"""Feeding a model piece by piece gives the logits of one whole forward pass, whatever its cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from slmquant import api, engines
from slmquant.engines.common.contract import OpenOptions
from slmquant.engines.common.torch_sessions import TorchSession
from slmquant.engines.torch_compiled import CompiledSession
from slmquant.errors import ModelError, RefusedError
from slmquant.model.sources.read_llama2c import read_llama2c
from slmquant.testing.tiny import tiny
from tests import tiny_llama2c

IDS = np.random.default_rng(0).integers(67, size=30).tolist()


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "bloom", "lfm2", "qwen2_moe"])
def test_pieces_are_the_whole(name: str) -> None:
    model = tiny(name)
    session = TorchSession(model, context=30)
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor([IDS])).logits[0].numpy()

    for _ in range(2):
        session.reset()
        pieces = [session.feed(IDS[:10], every=True), session.feed(IDS[10:28])]
        pieces += [session.feed([token]) for token in IDS[28:]]

        assert session.vocab == whole.shape[1]
        assert np.concatenate(pieces) == pytest.approx(np.concatenate((whole[:10], whole[27:])), abs=1e-4)


@pytest.mark.engine
def test_a_compiled_model_gives_the_logits_of_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what others compile at the same time is not mixed in
    model = tiny("llama")
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    session = CompiledSession(model, context=64)

    for _ in range(2):
        session.reset()
        pieces = [session.feed(IDS[:10]), *(session.feed([token]) for token in IDS[10:])]

        assert np.concatenate(pieces) == pytest.approx(whole[9:], abs=1e-4)


def test_without_a_compiler_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)

    status = engines.load("torch_compiled").status()

    assert not status.usable
    assert "g++" in (status.reason or "")


def test_a_sequence_does_not_outgrow_its_context() -> None:
    session = TorchSession(tiny("llama"), context=12)
    session.feed(IDS[:10])

    with pytest.raises(ValueError, match=r"10 \+ 3 tokens exceed the context of 12"):
        session.feed(IDS[:3])
    with pytest.raises(ValueError, match="at least one"):
        session.feed([])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    model, tokenizer = read_llama2c(*tiny_llama2c.write(tmp_path / "files"))
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_quantized_folder_gives_the_logits_that_were_evaluated(folder: Path, tmp_path: Path) -> None:
    api.quantize(str(folder), "rtn", "W4A8g8", dtype="float32").save(tmp_path / "quantized")
    model = api.open_artifact(tmp_path / "quantized").quantized.model
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([IDS])).logits[0].numpy()

    session = engines.load("torch_eager").open(tmp_path / "quantized", OpenOptions(1, 32))

    assert session.feed(IDS, every=True) == pytest.approx(expected, abs=1e-4)


def test_a_full_precision_folder_opens_in_either_dtype(folder: Path) -> None:
    options = OpenOptions(1, 32)
    wide = engines.load("torch_eager").open(folder, options).feed(IDS, every=True)
    narrow = engines.load("torch_bf16").open(folder, options).feed(IDS, every=True)

    assert wide.dtype == narrow.dtype == np.float32
    assert 0 < abs(wide - narrow).max() < 0.2 * abs(wide).max()


def test_what_cannot_be_opened_is_told(folder: Path, tmp_path: Path) -> None:
    engine, options = engines.load("torch_eager"), OpenOptions(1, 32)
    quantized = api.quantize(str(folder), "rtn", "W8A16", dtype="float32").save(tmp_path / "quantized")
    manifest = quantized / "slmquant.json"
    manifest.write_text(manifest.read_text().replace('"version": ', '"version": 99'))
    with pytest.raises(ModelError, match="version 99"):
        engine.open(quantized, options)

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError):
        engine.open(folder, options)


def test_a_model_without_a_cache_of_keys_is_refused(tmp_path: Path, folder: Path) -> None:
    model = tiny("mamba", vocab_size=268)
    model.save_pretrained(tmp_path / "mamba")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "mamba" / name).write_bytes((folder / name).read_bytes())

    with pytest.raises(RefusedError, match="mamba keeps no key-value cache"):
        engines.load("torch_eager").open(tmp_path / "mamba", OpenOptions(1, 32))
