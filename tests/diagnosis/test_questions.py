"""`slmquant questions`: every combination is measured once, its shares are printed, and what cannot be is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slmquant import api
from slmquant.cli import app
from slmquant.errors import SlmquantError
from slmquant.model.running.trial import Trial
from slmquant.store.experiments import Experiments, read_experiments
from tests.runs.made_up import make_data, make_model, write_text

TEXTS = ("wikitext2_test", "wikitext2_train")
OPTIONS = ("--texts", ",".join(TEXTS), "--windows", "5", "--length", "16", "--dtype", "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    make_model(folder)
    write_text(make_data(folder), "c4_train_a", 3, 3)
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SLMQUANT_DATA", str(folder / "data"))


def questions(folder: Path, *schemes: str) -> Experiments:
    return api.questions(str(folder / "model"), schemes, texts=TEXTS, windows=5, length=16, dtype="float32")


def test_every_combination_is_measured_on_the_same_windows(folder: Path) -> None:
    found = questions(folder, "W4A4KV4E4")

    (factorial,) = found.factorials
    assert factorial.operands == ("weights", "activations", "cache", "embeddings")
    assert len(factorial.cells) == 16
    assert [len(sample.positions) for sample in found.samples] == [5, 5]
    means = {cell.rounded: sum(map(sum, cell.divergence)) / 10 for cell in factorial.cells}
    assert abs(means[()]) < 1e-6
    assert all(means[operand,] > 1e-5 for operand in factorial.operands)
    assert found.model == "model"
    assert found.calibration is None


def test_what_was_measured_is_not_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = questions(folder, "W8A8")
    monkeypatch.setattr(Trial, "tokens", lambda _: pytest.fail("measured again"))

    assert questions(folder, "W8A8").factorials == before.factorials


def test_the_command_prints_shares_verdicts_and_what_is_absent(folder: Path, tmp_path: Path) -> None:
    words = ["questions", str(folder / "model"), "--schemes", "W4A8E4,W8A8", *OPTIONS]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "found.json")])

    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "W4A8E4: what the divergence comes from" in said
    assert "W8A8: effects on the logarithm of the divergence" in said
    assert "No cell for KV cache: W8A8 leaves KV cache in 16 bits." in said
    assert "5 of wikitext2_test, 5 of wikitext2_train; computed in float32" in said
    assert str(folder) not in (tmp_path / "found.json").read_text()
    assert len(read_experiments(tmp_path / "found.json").factorials) == 2


def test_json_is_the_file(folder: Path, tmp_path: Path) -> None:
    words = ["questions", str(folder / "model"), "--schemes", "W8A8", *OPTIONS, "--json"]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "found.json")])

    assert json.loads(result.stdout) == json.loads((tmp_path / "found.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--schemes", "W4A16"], "W4A16 rounds only weights of linears"),
        (["--schemes", "W16A16"], "rounds nothing"),
        (["--schemes", "W8A8,W7"], "cannot read scheme 'W7'"),
        (["--schemes", ","], "is empty"),
        (["--ask", "everything"], "unknown question 'everything'"),
        (["--ask", "ablation", "--schemes", "W4A16"], "W4A16 leaves activations in 16 bits"),
        (["--method", "gptqq"], "unknown method 'gptqq'"),
        (["--method", "none"], "full precision cannot be W8A8KV8E8"),
        (["--method", "gptq", "--corpus", "wikitext2_test"], "cannot judge it"),
        (["--texts", "wikipedia"], "unknown corpus 'wikipedia'"),
        (["--texts", "c4_train_b"], "not found"),
        (["--texts", "c4_train_a"], "a verdict needs 4"),
        (["--dtype", "float8"], "unknown dtype 'float8'"),
        (["--windows", "2"], "--windows"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    given = ["questions", str(folder / "model"), *OPTIONS, *words, "-o", str(tmp_path / "found.json")]
    result = CliRunner().invoke(app, given)

    assert result.exit_code == 2 or isinstance(result.exception, SlmquantError)
    assert said in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())
    assert not (tmp_path / "found.json").exists()


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text('{"schema_version": 1, "model": "m"}')
    with pytest.raises(SlmquantError, match="cannot be read as a file of experiments"):
        read_experiments(tmp_path / "found.json")
