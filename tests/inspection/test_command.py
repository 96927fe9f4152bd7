"""`slmquant inspect`: tables, JSON, a folder with a page, and what cannot be inspected is told before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from slmquant import api
from slmquant.cli import app
from slmquant.errors import DataError, ModelError, OutputError, RefusedError, SchemeError, SlmquantError
from slmquant.inspection import inspect as inspection
from slmquant.store.inspected import Inspection
from slmquant.store.record import CalibrationSpec
from tests.runs.made_up import make_data, make_model

TEXT = CalibrationSpec(corpus="wikitext2_train", num_samples=3, seq_len=16)
OPTIONS = ("--corpus", "wikitext2_train", "--samples", "3", "--seq-len", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    make_model(folder)
    make_data(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def found(folder: Path) -> Inspection:
    return api.inspect(str(folder / "model"), schemes=["W8A16", "Q8_0"], text=TEXT, data_dir=folder / "data")


def run(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["inspect", str(folder / "model"), "--data", str(folder / "data"), *words])
    if isinstance(result.exception, SlmquantError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_everything_is_measured(found: Inspection) -> None:
    assert [size.scheme for size in found.anatomy.schemes] == ["W16A16", "W8A16", "Q8_0"]
    assert len(found.weights) == 1 + 2 * 7 + 1
    assert len(found.inputs) == 2 * 4
    assert len(found.stream) == len(found.attention) == 2
    assert found.text == TEXT and found.data is not None
    assert found.model == "model"  # no local folder
    assert set(found.covariates()) == {weight.name for weight in found.weights}


def test_the_same_again_is_the_same(folder: Path, found: Inspection) -> None:
    again = api.inspect(str(folder / "model"), schemes=["W8A16", "Q8_0"], text=TEXT, data_dir=folder / "data")

    assert again == found


def test_json_is_the_inspection(folder: Path, found: Inspection) -> None:
    out = run(folder, "--json", "--scheme", "W8A16", "--scheme", "Q8_0", *OPTIONS)

    assert Inspection.model_validate_json(out) == found


def test_tables_show_every_part_and_every_weight_on_request(folder: Path) -> None:
    short, long = run(folder, *OPTIONS), run(folder, "--tensors", *OPTIONS)

    for words in ("parameters and bytes", "decoder blocks", "grids under", "inputs of linears", "residual stream"):
        assert words in short
    assert "model.layers.1.mlp.down_proj" not in short.split("parameters and bytes")[1]
    assert "model.layers.1.mlp.down_proj" in long


def test_anatomy_reads_no_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "load_corpus", lambda *_: pytest.fail("a text was read"))
    out = json.loads(run(folder, "--anatomy", "--json", "--corpus", "c4"))

    assert out["anatomy"]["layers"][1]["query_heads"] == 4
    assert out["weights"] == out["inputs"] == [] and out["text"] is None


def test_a_folder_gets_the_page_and_the_data_and_may_be_written_again(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "inspected"
    for _ in range(2):
        run(folder, "-o", str(place), *OPTIONS)

    assert {path.name for path in place.iterdir()} == {"index.html", "inspection.json"}
    assert Inspection.model_validate_json((place / "inspection.json").read_text(encoding="utf-8")).inputs


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--scheme", "W17"], SchemeError, "cannot read scheme 'W17'"),
        (["--scheme", "IQ2_XXS"], RefusedError, "IQ2_XXS is not supported"),
        (["--corpus", "wikitext2_train", "--samples", "5000"], DataError, "5000 windows of 64 need"),
        (["--corpus", "wikitext"], SlmquantError, "unknown corpus 'wikitext'"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, words: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(folder, *words)


def test_a_folder_with_other_contents_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")

    with pytest.raises(OutputError, match="other contents"):
        run(folder, "-o", str(tmp_path), *OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_model_too_large_for_memory_is_told_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000))
    monkeypatch.setattr(inspection, "load", lambda *_, **__: pytest.fail("it was loaded"))

    with pytest.raises(ModelError, match=r"take [\d.]+ kB of memory, and 50 kB are free"):
        run(folder, *OPTIONS)
