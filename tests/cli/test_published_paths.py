"""Folders of this machine are nobody's business: no file that is given away names one."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from slmquant import api, formats
from slmquant.cli._app import run
from slmquant.formats import native
from slmquant.formats.native.manifest import MANIFEST, digest
from slmquant.testing.tiny import tiny
from tests.cli.exports import EXPORTS
from tests.formats.gguf_models import tokenizer

MARK = "Folder of [mine]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a marked name that has a space in it, with a model, data and a cache."""
    marked = tmp_path / MARK / "below"
    (marked / "data" / "text").mkdir(parents=True)
    for name in ("train", "test"):
        (marked / "data" / "text" / f"wikitext2_{name}.txt").write_text("a b ab " * 400)
    for name in ("cache", "data"):
        monkeypatch.setenv(f"SLMQUANT_{name.upper()}", str(marked / name))
    tiny("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1).save_pretrained(marked / "model")
    tokenizer().save_pretrained(marked / "model")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return marked


def named(place: Path) -> list[str]:
    """The files at a place that name the marked folder."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if b"Folder of" in file.read_bytes() or b"/below" in file.read_bytes()]


@pytest.mark.parametrize(("kind", "scheme", "more"), EXPORTS)
def test_no_artifact_names_the_folder_of_its_model(
    folder: Path, tmp_path: Path, kind: str, scheme: str, more: tuple[str, ...]
) -> None:
    if (needed := {"onnx": "onnxruntime_genai", "openvino": "openvino"}.get(kind)) and find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    out = tmp_path / "out" / f"m{formats.load(kind).suffix}"
    words = ["-f", kind, "--method", "rtn", "--scheme", scheme, *more, "-o", str(out), "-q"]
    assert run(["export", str(folder / "model"), *words]) == 0
    assert not named(out)


def test_no_report_names_the_folder_of_a_model(folder: Path, tmp_path: Path) -> None:
    store, out = str(tmp_path / "store.sqlite"), tmp_path / "out"
    words = ["--methods", "rtn", "--schemes", "W4A16g32", "--tasks", "wikitext2:2", "--dtype", "float32", "-q"]
    assert run(["bench", str(folder / "model"), *words, "--store", store, "-o", str(out / "bench")]) == 0
    assert run(["bench", str(folder / "absent"), *words, "--store", store, "-o", str(out / "failed")]) == 9
    for kind in ("csv", "json", "html"):
        assert run(["report", "--store", store, "-o", str(out / "report"), "--format", kind, "-q"]) == 0
    assert run(["bench-engine", str(folder / "absent.gguf"), "-e", "llamacpp", "-o", str(out / "engine"), "-q"]) != 0
    assert not named(out)
    said = json.loads((out / "report" / "results.json").read_text())
    assert {record["spec"]["model"] for record in said} == {"model", "absent"}
    assert "there is no folder absent" in (out / "report" / "index.html").read_text()


def test_an_artifact_still_finds_its_source(folder: Path, tmp_path: Path) -> None:
    """By the cache of this machine; one of before, by the path in it; elsewhere, by name alone."""
    artifact = api.quantize(str(folder / "model"), "rtn", "W8A16", dtype="float32")
    out = artifact.save(tmp_path / "out" / "m")
    assert native.load(out).source == str(folder / "model")

    shutil.rmtree(folder / "cache")
    assert native.load(out).source == "model"

    content = json.loads((out / MANIFEST).read_text()) | {"source": str(folder / "model")}
    (out / MANIFEST).write_text(json.dumps(content | {"sha256": digest(content)}))
    assert native.load(out).source == str(folder / "model")
