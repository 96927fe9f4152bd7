"""Stores from several machines become one; what contradicts itself is named."""

from __future__ import annotations

import math
import sqlite3
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet
import pytest

from slmquant.analysis.recount import complaints
from slmquant.errors import OutputError, StoreError
from slmquant.store.combine import combine
from slmquant.store.jsonlines import read_cells, write_cells
from slmquant.store.record import ItemOutcome, Metric, Record
from slmquant.store.sqlite import Store
from tests import invented


def later(record: Record, status: str = "ok") -> Record:
    moved = record.finished_at + timedelta(hours=1)
    return record.model_copy(update={"finished_at": moved, "status": status, "reason": "later"})


def store_of(path: Path, records: list[Record]) -> Path:
    with Store(path) as store:
        for record in records:
            store.put(record, [ItemOutcome(task=invented.TEXT, item="0", values={"nll_mean": 3.0})])
    return path


def read(path: Path) -> dict[str, Record]:
    with Store(path, read_only=True) as store:
        return {record.cell_id: record for record in store.records()}


def test_every_cell_is_kept_once_with_its_items(tmp_path: Path) -> None:
    records = invented.benchmark()
    first = store_of(tmp_path / "a.sqlite", records[:3])
    write_cells(records[2:], {}, tmp_path / "b.jsonl")

    done = combine([first, tmp_path / "b.jsonl"], tmp_path / "all.sqlite")

    assert (done.cells, done.added, done.replaced, done.repeated) == (len(records), len(records), 0, 1)
    assert read(tmp_path / "all.sqlite") == {record.cell_id: record for record in records}
    with Store(tmp_path / "all.sqlite", read_only=True) as store:
        assert len(store.items(records[0].cell_id)) == 1
        assert store.items(records[-1].cell_id) == []


@pytest.mark.parametrize("ending", [".sqlite", ".jsonl"])
def test_a_finished_cell_is_kept_before_a_failed_one_and_the_latest_of_both(tmp_path: Path, ending: str) -> None:
    record = next(record for record in invented.benchmark() if record.status == "ok")
    old, new, failed = record, later(record), later(later(record), "failed")
    stores = [store_of(tmp_path / f"{i}.sqlite", [cell]) for i, cell in enumerate((old, new, failed))]
    for number, order in enumerate((stores, stores[::-1], [stores[1], stores[2], stores[0]])):
        output = tmp_path / f"out{number}{ending}"
        combine(order, output)
        kept = read(output) if ending == ".sqlite" else {r.cell_id: r for r in read_cells(output)[0]}

        assert kept == {record.cell_id: new}


def test_a_table_has_a_row_for_each_cell(tmp_path: Path) -> None:
    records = invented.benchmark()
    combine([store_of(tmp_path / "a.sqlite", records)], tmp_path / "cells.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "cells.parquet").to_pydict()

    assert sorted(table["cell_id"]) == sorted(record.cell_id for record in records)


def test_what_cannot_be_combined_is_refused(tmp_path: Path) -> None:
    source = store_of(tmp_path / "a.sqlite", invented.benchmark()[:1])
    with pytest.raises(OutputError, match=r"expected one of \.sqlite"):
        combine([source], tmp_path / "cells.xlsx")
    with pytest.raises(StoreError, match="no result store at"):
        combine([tmp_path / "missing.sqlite"], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_store_names_its_damage(tmp_path: Path) -> None:
    records = invented.benchmark()[:2]
    path = store_of(tmp_path / "a.sqlite", records)
    with Store(path, read_only=True) as store:
        assert store.damage() == []
    with sqlite3.connect(path) as raw:
        moved = "cell_id = 'ffffffffffffffff', record_xxh3 = NULL"  # as a store without checksums holds it
        raw.execute(f"UPDATE records SET {moved} WHERE cell_id = ?", (records[0].cell_id,))
    with Store(path, read_only=True) as store:
        assert "1 answers belong to no cell" in store.damage()
        assert any("ffffffffffffffff is stored under another id" in line for line in store.damage())


def test_numbers_that_contradict_their_items_are_named() -> None:
    record = next(r for r in invented.benchmark() if r.status == "ok")
    task = str(record.spec.tasks[0])
    items = [ItemOutcome(task=task, item=str(i), values={"acc": float(i < 3), "nll_mean": i / 8}) for i in range(8)]
    accuracy = Metric(name="acc", value=3 / 8, unit="ratio", higher_is_better=True, task=task, n=8)
    perplexity = Metric(
        name="perplexity", value=math.exp(3.5 / 8), unit="1", higher_is_better=False, task=task, n=4096, clusters=8
    )
    honest = record.model_copy(update={"metrics": (accuracy, perplexity)})
    assert list(complaints(honest, items)) == []

    for edited in (accuracy.model_copy(update={"value": 0.5}), perplexity.model_copy(update={"value": 1.5})):
        [line] = complaints(record.model_copy(update={"metrics": (edited,)}), items)
        assert line.startswith(f"has {edited.name} {edited.value:.9g} on {task}")
    foreign = [ItemOutcome(task="elsewhere:1", item="0", values={"acc": 1.0})]
    assert any("not among its tasks" in line for line in complaints(honest, foreign))
