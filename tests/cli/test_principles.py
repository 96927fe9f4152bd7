"""`slmquant principles`: the table, one principle in full, JSON, and bad input."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from slmquant.cli import app
from slmquant.cli._app import run
from slmquant.principles import names
from slmquant.store.jsonlines import write_cells
from slmquant.store.sqlite import Store
from tests.principles.planted import Planted


@pytest.fixture
def cells() -> Planted:
    cells = Planted()
    cells.cell("rtn/W8A16", 0.002)
    cells.cell("rtn/W16A8", 0.02)
    return cells


@pytest.fixture
def file(cells: Planted, tmp_path: Path) -> str:
    write_cells(cells.records, cells.items, tmp_path / "cells.jsonl")
    return str(tmp_path / "cells.jsonl")


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, ["principles", *words], env={"COLUMNS": "220"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("width", ["80", "220"])
def test_every_principle_has_a_row(file: str, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmquant.cli.principles.console", Console(width=int(width)))
    lines = shown(file).splitlines()
    text = " ".join(lines)

    assert all(name in text for name in names())
    (row,) = (line for line in lines if line.strip().startswith("eight_bit_activations "))
    assert "holds" in row
    assert "invented-135m: ×" in row


def test_one_is_shown_in_full(file: str, cells: Planted) -> None:
    text = shown("eight_bit_activations", file)

    assert "Activations, not weights, limit 8 bits." in text
    assert all(record.cell_id[:8] in text for record in cells.records)
    assert "follows: prefer" in text
    assert "smoothing" not in text.splitlines()[0]


def test_what_is_missing_is_shown_with_its_command(file: str) -> None:
    assert "slmquant bench invented-135m --methods rtn --schemes W4A16,W4A16g64" in shown("group_size", file)


def test_json_has_what_the_tables_have(file: str, cells: Planted) -> None:
    everything = json.loads(shown("--json", file))
    (one,) = json.loads(shown("--json", file, "eight_bit_activations"))

    assert [principle["name"] for principle in everything] == names()
    assert one == everything[names().index("eight_bit_activations")]
    assert one["models"][0]["evidence"][0]["cells"] == [record.cell_id for record in cells.records]


def test_stores_and_files_are_read_together(cells: Planted, tmp_path: Path) -> None:
    first, second = cells.records
    write_cells([first], cells.items, tmp_path / "cells.jsonl")
    with Store(tmp_path / "store.sqlite") as store:
        store.put(second, cells.items[second.cell_id])
    (one,) = json.loads(
        shown("eight_bit_activations", str(tmp_path / "cells.jsonl"), str(tmp_path / "store.sqlite"), "--json")
    )

    assert one["verdict"] == "holds"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["smothing"], 2, "Did you mean 'smoothing'"),
        (["nowhere/cells.jsonl"], 8, "cannot be read"),
        (["nowhere.sqlite"], 8, "no result store at nowhere.sqlite"),
        (["empty.sqlite"], 8, "holds no cells"),
        (["foreign.sqlite"], 8, "foreign.sqlite"),
        (["foreign.jsonl"], 8, "foreign.jsonl"),
    ],
)
def test_bad_input_is_a_line_and_a_code(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(tmp_path / "empty.sqlite"):
        pass
    (tmp_path / "foreign.sqlite").write_bytes(b"something else" * 100)
    (tmp_path / "foreign.jsonl").write_text('{"a": 1}\n')

    assert run(["principles", *words]) == code
    assert message in capsys.readouterr().err


def test_without_a_store_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLMQUANT_STORE", str(tmp_path / "store.sqlite"))

    assert run(["principles"]) == 8
    assert "run `slmquant bench`" in capsys.readouterr().err
