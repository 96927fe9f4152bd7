"""A command that is killed leaves the old output or the new one, and works when it is run again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from slmquant import formats
from slmquant.api import open_artifact
from slmquant.cli._app import run
from slmquant.files import cache_dir
from slmquant.model.sources.fingerprint import compute_fingerprint
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import tokenizer
from tests.killing import killed_at_steps

RTN = ("--method", "rtn", "--scheme", "W8A16g32", "-q")
SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = Path(os.environ.get("SLMQUANT_DATA") or SHARED / "data").parent / "models"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data" / "text").mkdir(parents=True)
    (tmp_path / "data" / "text" / "wikitext2_train.txt").write_text("a b ab " * 400)
    for name, value in {"CACHE": str(tmp_path / "cache"), "DATA": str(tmp_path / "data")}.items():
        monkeypatch.setenv(f"SLMQUANT_{name}", value)
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        tiny("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1).save_pretrained(name)
        tokenizer().save_pretrained(name)
    return tmp_path


def content(path: Path) -> dict[str, object]:
    """All that a file or a folder holds; of safetensors the metadata in any order, as the library writes them."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    found: dict[str, object] = {}
    for file in files:
        value: object = file.read_bytes()
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                value = (opened.metadata(), {name: opened.get_tensor(name).tolist() for name in opened.keys()})  # noqa: SIM118
        found[str(file.relative_to(path))] = value
    return found


@pytest.mark.parametrize("kind", ["native", "gptq", "gguf"])
def test_a_killed_export_leaves_a_whole_output(folder: Path, kind: str) -> None:
    out = folder / f"out{formats.load(kind).suffix}"
    words = ("-f", kind, *RTN, "--overwrite", "-o", str(out), *(("--otherwise", "F16") if kind == "gguf" else ()))

    def export(source: str) -> None:
        assert run(["export", f"./{source}", *words]) == 0

    export("one")
    old = content(out)
    new: dict[str, object] = {}
    for step in killed_at_steps(lambda: export("two"), folder, count=2):
        found = content(out)
        new = new or found  # of the one that was not killed
        assert found in (old, new), f"after step {step} neither what was there nor what should be"
    export("one")
    assert content(out) == old != new


def test_a_killed_quantize_leaves_nothing_or_a_model_that_opens(folder: Path) -> None:
    """Its statistics are kept in a cache; those of a killed capture are never taken for whole."""
    words = ["--method", "gptq", "--scheme", "W4A16g32", "--samples", "2", "--seq-len", "16", "-q", "-o", "out"]

    def quantize() -> None:
        assert run(["quantize", "./one", *words]) == 0

    for step in killed_at_steps(quantize, folder, count=5):
        if (folder / "out").exists():
            open_artifact(folder / "out")  # which holds every file against its checksum
            shutil.rmtree(folder / "out")
        if step % 3 == 0:  # over what is left of the cache
            quantize()
            open_artifact(folder / "out")
            shutil.rmtree(folder / "out")
        shutil.rmtree(folder / "cache", ignore_errors=True)


def test_a_killed_pull_leaves_no_model_or_a_whole_one(folder: Path) -> None:
    source = MODELS / "stories260k"
    if not source.is_dir():
        pytest.skip("models/stories260k is not beside the data folder")

    def pull() -> None:
        assert run(["pull", "stories260k", "--from", str(source), "--force", "-q"]) == 0

    pull()
    model = cache_dir() / "models" / "stories260k"
    expected = compute_fingerprint(model)
    for _ in killed_at_steps(pull, folder, count=3):
        assert compute_fingerprint(model) == expected
    for entry in model.parent.glob(".*"):
        os.utime(entry, (0, 0))
    pull()
    assert compute_fingerprint(model) == expected
    assert [entry.name for entry in model.parent.iterdir()] == ["stories260k"]
