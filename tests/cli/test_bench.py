"""What `slmquant bench` makes of its flags and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slmquant.cli import app
from slmquant.cli._names import split_names
from slmquant.cli._sweep import Sweep, View
from slmquant.errors import OutputError
from slmquant.runs.rows import Event
from tests import invented


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = tmp_path / "store.sqlite"
    command = ["bench", "stories260k", "--report", str(tmp_path / "file" / "report"), "--store", str(store)]
    with pytest.raises(OutputError, match="choose another path"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not store.exists()


def test_what_a_cell_says_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "[enforce fail at alloc_cpu.cpp:1] no room in [/tmp/x]"
    record = invented.record("rtn", "W4A8", status="failed", reason=reason)
    View(Sweep()).tell(Event("tiny/rtn/W4A8: failed", record, 1, 1))

    assert reason in capsys.readouterr().err.replace("\n", " ")


def test_an_option_that_names_nothing_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="is empty"):
        split_names(" ")
    assert split_names("a, b,") == ["a", "b"]
