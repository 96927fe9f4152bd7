"""What the code wrote before its rooms were rebuilt (commit 41df2b6) is read as it was then."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import slmquant as sq
from slmquant.cli import app
from slmquant.store import Store
from tests import invented

BEFORE = Path(__file__).parent / "fixtures" / "before_rooms"


@torch.no_grad()
def test_an_artifact_computes_what_it_computed() -> None:
    """Rotated, codes of four bits, inputs of eight, a cache of four."""
    expected = json.loads((BEFORE / "logits.json").read_text())

    opened = sq.open_artifact(BEFORE / "artifact")
    logits = opened.quantized.model(torch.arange(12)[None] % 50).logits[0, -1, : len(expected)]

    assert (opened.source, opened.source_sha256) == ("tiny", "0" * 64)
    assert logits.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_store_holds_the_same_rows(tmp_path: Path) -> None:
    shutil.copy(BEFORE / "store.sqlite", tmp_path)

    with Store(tmp_path / "store.sqlite", read_only=True) as store:
        found = {record.cell_id: record for record in store.records()}

    then = {"schema_version": 2}
    assert found == {record.cell_id: record.model_copy(update=then) for record in invented.benchmark()}


def test_a_report_of_that_store_is_the_same(tmp_path: Path) -> None:
    shutil.copy(BEFORE / "store.sqlite", tmp_path)

    ended = CliRunner().invoke(
        app, ["report", "--store", str(tmp_path / "store.sqlite"), "-o", str(tmp_path / "report"), "-f", "csv"]
    )

    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "report" / "results.csv").read_text() == (BEFORE / "results.csv").read_text()
