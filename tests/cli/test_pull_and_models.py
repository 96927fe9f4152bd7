"""`slmquant pull` and `slmquant models` say what is known, what is here, and how it got here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from slmquant.cli import models as models_command
from slmquant.cli import pull as pull_command
from slmquant.errors import SourceError, UnknownNameError
from slmquant.files import sha256
from slmquant.model.sources.catalog import KNOWN, KnownModel, SourceFile
from tests import tiny_llama2c

app = Typer()
app.command("pull")(pull_command.command)
app.command("models")(models_command.command)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a known model `tiny`."""
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    sources = tuple(SourceFile(p.name, sha256(p), p.stat().st_size) for p in tiny_llama2c.write(folder))
    tiny = KnownModel("tiny", "llama", 9, "MIT", "tests", "llama2c", "float32", sources, on_grid=False)
    monkeypatch.setitem(KNOWN, "tiny", tiny)
    return folder


def test_pull_tells_what_it_got_and_models_lists_it(files: Path) -> None:
    pulled = run("pull", "tiny", "--from", str(files))
    listed = run("models", "--json")

    assert "tiny  original, float32, MIT" in pulled.stdout
    facts = {entry["name"]: entry for entry in json.loads(listed.stdout)}
    assert facts["tiny"]["here"] is True
    assert facts["tiny"]["size_bytes"] > 0
    assert facts["stories15m"]["here"] is False
    assert facts["stories15m"]["size_bytes"] is None
    assert facts["stories15m"]["licence"] == "MIT"


def test_pull_prints_nothing_but_json_when_asked(files: Path) -> None:
    result = run("pull", "tiny", "--from", str(files), "--json")

    assert json.loads(result.stdout)[0]["name"] == "tiny"


def test_pull_is_silent_when_asked(files: Path) -> None:
    assert run("pull", "tiny", "--from", str(files), "--quiet").stdout == ""


def test_a_wrong_name_is_told_before_anything_is_fetched(files: Path) -> None:
    result = run("pull", "tiny", "tinny", "--from", str(files))

    assert isinstance(result.exception, UnknownNameError)
    assert json.loads(run("models", "--json").stdout)[-1]["here"] is False


def test_a_folder_without_the_files_is_told(files: Path, tmp_path: Path) -> None:
    result = run("pull", "tiny", "--from", str(tmp_path))

    assert isinstance(result.exception, SourceError)


def test_the_table_names_every_known_model(files: Path) -> None:
    table = run("models").stdout

    assert all(name in table for name in KNOWN)


@pytest.mark.parametrize("lying", ["all", "one is missing", "none", "no data folder"])
def test_models_promises_what_pull_does(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lying: str
) -> None:
    """Files of a model that no package carries are found in `models/NAME` beside the data folder."""
    beside = tmp_path / "shared" / "models" / "tiny"
    if lying in ("all", "one is missing"):
        beside.parent.mkdir(parents=True)
        files.rename(beside)
    if lying == "one is missing":
        next(beside.iterdir()).unlink()
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)
    if lying != "no data folder":
        monkeypatch.setenv("SLMQUANT_DATA", str(tmp_path / "shared" / "data"))

    row = next(line for line in run("models").stdout.splitlines() if line.split()[:1] == ["tiny"])
    at = next(entry["files_at"] for entry in json.loads(run("models", "--json").stdout) if entry["name"] == "tiny")
    pulled = run("pull", "tiny", "--quiet")

    if lying == "all":
        assert "pull, from local files" in row and at == str(beside)
        assert pulled.exit_code == 0
        assert " MB" in next(line for line in run("models").stdout.splitlines() if line.split()[:1] == ["tiny"])
    else:
        assert "pull --from DIR" in row and at is None
        assert isinstance(pulled.exception, SourceError) and "slmquant pull tiny --from DIR" in str(pulled.exception)
