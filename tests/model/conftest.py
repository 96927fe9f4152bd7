from __future__ import annotations

from pathlib import Path

import pytest

from slmquant.model.sources.read_llama2c import read_llama2c
from tests import tiny_llama2c


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_folder(tmp_path: Path, empty_cache: Path) -> Path:
    """A tiny random llama with its tokenizer, in transformers' form."""
    files = tmp_path / "files"
    files.mkdir()
    model, tokenizer = read_llama2c(*tiny_llama2c.write(files))
    folder = tmp_path / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
