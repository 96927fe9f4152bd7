"""Rows of older code are read as before, shown apart, and never stand for newer ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slmquant import versions
from slmquant.cli import app
from slmquant.report._sections import sections
from slmquant.report._words import remarks
from slmquant.store import Store
from slmquant.store.export import rows
from slmquant.store.inputs import Inputs
from slmquant.store.outdated import aged, apart, changes, older
from slmquant.store.record import Record
from tests import invented

WRITTEN = Path(__file__).with_name("written_by_schema_1.db")
"""INVENTED records, written by slmquant at commit ea9a960, before rows said what they were measured of."""

NOW = Inputs(
    config_sha256="c" * 64,
    tokenizer_sha256="7" * 64,
    data_sha256=(("wikitext2", "d" * 64),),
    stages=tuple(versions.STAGES.items()),
    methods=(("rtn", 1),),
    metrics=(("text", versions.METRICS["text"]), ("consumption", versions.METRICS["consumption"])),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copy(WRITTEN, tmp_path / "old.sqlite")
    return tmp_path / "old.sqlite"


def measured(record: Record, **changes: object) -> Record:
    """What the current code would make of a cell."""
    inputs = NOW.model_copy(update=changes)
    return record.model_copy(update={"spec": record.spec.model_copy(update={"inputs": inputs}), "schema_version": 2})


def test_an_older_store_is_read_as_it_was_and_its_rows_are_outdated(path: Path) -> None:
    before = invented.benchmark()[:5] + invented.benchmark()[10:11]
    with Store(path, read_only=True) as store:
        found = store.records()
        assert len(found) == 6
        for record in before:
            old = store.get(record.cell_id)
            assert (old.spec, old.status, old.reason) == (record.spec, record.status, record.reason)
            assert set(old.metrics) <= set(record.metrics) and len(old.metrics) >= len(record.metrics) - 2
            assert len(store.items(record.cell_id)) == len(invented.items(record)[:4])

    assert set(apart(found)) == {record.cell_id for record in before}
    assert all("not recorded" in str(older(aged(record).versions)) for record in found)


def test_a_new_row_is_another_cell_and_what_its_label_means(path: Path) -> None:
    with Store(path) as store:
        old = store.get("rtn/W8A8")
        new = measured(old)
        assert not store.finished(new.cell_id)
        store.put(new)

        assert store.get("rtn/W8A8") == new
        assert store.get(old.cell_id) == old
        assert new.cell_id not in apart(store.records())
    assert changes(old.spec, new.spec) == ["the version of slmquant (older ones recorded fewer inputs)"]


def test_reports_hold_outdated_rows_apart_and_say_so(path: Path) -> None:
    with Store(path) as store:
        store.put(measured(store.get("rtn/W8A8")))
        new, old = sections(store.records())
        table = rows(store.records())

    assert (len(new.cells), new.outdated) == (1, ())
    assert len(old.cells) == 5
    assert remarks(old)[0].startswith("Outdated")
    assert [bool(row["outdated"]) for row in table].count(True) == 6


def test_list_shows_outdated_rows_below_the_others(path: Path) -> None:
    with Store(path) as store:
        store.put(measured(store.get("rtn/W8A8")))
    shown = CliRunner().invoke(app, ["list", "--store", str(path)], env={"COLUMNS": "250"}).stdout

    assert "1 cells in" in shown or "1 cell in" in shown
    assert shown.index("6 outdated cells") > shown.index("cells in")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"config_sha256": "e" * 64}, "configuration"),
        ({"tokenizer_sha256": "e" * 64}, "tokenizer"),
        ({"data_sha256": (("wikitext2", "e" * 64),)}, "data of wikitext2"),
        ({"methods": (("rtn", 2),)}, "'rtn' (version 1, now 2)"),
    ],
)
def test_no_two_hashes_have_one_name(change: dict[str, object], word: str) -> None:
    record = invented.record("rtn", "W8A8")
    first, second = measured(record), measured(record, **change)

    assert first.cell_id != second.cell_id
    assert changes(first.spec, second.spec) != []
    assert word in changes(first.spec, second.spec)[0]
    assert second.spec.question == first.spec.question


def test_versions_are_those_that_metrics_carry() -> None:
    from slmquant.engine_bench import figures
    from slmquant.tasks.common.texts import token_means
    from slmquant.tasks.common.writing import generation

    assert versions.METRICS["text"] == token_means.METRIC_VERSION
    assert versions.METRICS["generation"] == generation.METRIC_VERSION
    assert versions.METRICS["engine"] == figures.VERSION
