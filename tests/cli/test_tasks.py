from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slmquant.calib import hub
from slmquant.cli.tasks import command
from slmquant.tasks import known
from slmquant.tasks.common.lm_eval import rows


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(rows, "reachable", lambda: False)
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)
    app = typer.Typer()
    app.command("tasks")(command)
    return app


def test_every_task_is_listed_with_where_its_data_comes_from(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "wikitext2_test.txt.gz").write_bytes(gzip.compress(b" \n = A = \n"))
    listed = json.loads(CliRunner().invoke(app, ["--json", "--data", str(tmp_path)]).stdout)
    tasks = {task["name"]: task for task in listed["tasks"]}
    assert list(tasks) == list(known())
    assert (tasks["wikitext2"]["data_from"], tasks["wikitext2"]["rows"]) == ("folder", 2)
    assert (tasks["piqa"]["data_from"], tasks["piqa"]["rows"]) == ("package", None)
    assert tasks["truthfulqa_mc1"]["data_from"] == "absent"
    assert {suite["name"] for suite in listed["suites"]} >= {"demo", "quick", "paper"}


def test_corpora_are_listed_with_their_licence(app: typer.Typer) -> None:
    listed = json.loads(CliRunner().invoke(app, ["--corpora", "--json"]).stdout)
    assert {"wikitext2_test", "exl_wiki_calib"} <= {corpus["name"] for corpus in listed}
    assert all(corpus["licence"] for corpus in listed)
