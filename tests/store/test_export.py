"""Exports are flat, stable, and never turn absence into a number."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from slmquant.report.files import write_report_csv, write_report_json
from slmquant.store import Store
from slmquant.store.export import json_table, rows, write_csv, write_jsonl
from slmquant.store.inputs import Inputs
from slmquant.store.listed import VERSION, listed
from slmquant.store.record import Record
from tests import invented


def test_all_rows_have_the_same_columns_in_the_same_order() -> None:
    records = invented.benchmark()
    table = rows(records)

    assert len({tuple(row) for row in table}) == 1
    assert list(table[0]) == list(rows(records[:10])[0])
    assert list(table[0])[:5] == ["cell_id", "model", "model_sha256", "method", "scheme"]


def test_columns_do_not_depend_on_the_order_of_metrics() -> None:
    record = invented.benchmark()[1]
    turned = record.model_copy(update={"metrics": record.metrics[::-1]})

    assert list(rows([record])[0]) == list(rows([turned])[0])


def test_absence_is_none_in_rows_and_empty_in_csv_and_null_in_json(tmp_path: Path) -> None:
    records = invented.benchmark()
    column = f"kl_mean[{invented.TEXT}]"
    write_csv(records, tmp_path / "out.csv")
    write_jsonl(records, tmp_path / "out.jsonl")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        from_csv = list(csv.DictReader(file))
    from_json = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    assert rows(records)[0][column] is None
    assert from_csv[0][column] == ""
    assert from_json[0][column] is None
    assert float(from_csv[1][column]) == from_json[1][column] == 0.0046
    assert len(from_csv) == len(from_json) == len(records)


def test_nothing_to_export_is_an_empty_table(tmp_path: Path) -> None:
    write_csv([], tmp_path / "out.csv")

    assert rows([]) == []
    assert (tmp_path / "out.csv").read_text().strip() == ""


def test_intervals_stand_beside_their_figures_where_there_are_any(tmp_path: Path) -> None:
    records = invented.benchmark()
    write_report_csv(records, tmp_path)
    write_report_json(records, tmp_path)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        (flat, *_) = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    whole = next(
        cell for cell in json.loads((tmp_path / "results.json").read_text()) if cell["cell_id"] == flat["cell_id"]
    )
    known = [metric for metric in whole["metrics"] if metric["stderr"] is not None]

    assert known
    for metric in known:
        column = metric["name"] if metric["task"] is None else f"{metric['name']}[{metric['task']}]"
        low, high = metric["interval"]
        assert low <= metric["value"] <= high
        assert [float(flat[f"{column}_low"]), float(flat[f"{column}_high"])] == [low, high]
    assert all(metric["interval"] is None for metric in whole["metrics"] if metric["stderr"] is None)


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_name_is_no_formula(tmp_path: Path, name: str) -> None:
    record = invented.record("rtn", "W8A8", cell=invented.spec("rtn", "W8A8", model=name))
    write_csv([record], tmp_path / "out.csv")
    (row,) = csv.DictReader((tmp_path / "out.csv").open(newline="", encoding="utf-8"))

    assert row["model"] == f"'{name}"
    assert row["method"] == "rtn"


def of_all_kinds() -> list[Record]:
    """Cells with other columns than their neighbours, outdated ones, and texts that JSON escapes."""
    records = invented.benchmark()
    first = records[1]
    again = first.spec.model_copy(update={"model_sha256": "cd" * 32})
    older = first.spec.model_copy(
        update={"seed": 7, "inputs": Inputs(config_sha256="a", tokenizer_sha256="b", stages=(("quantization", 0),))}
    )
    end = max(record.finished_at for record in records)
    one, two = end + timedelta(seconds=1), end + timedelta(seconds=2)
    odd = first.spec.model_copy(update={"model": '50 %s\n"quoted" é \u2028', "engine": "llamacpp", "tasks": ()})
    return [
        *sorted(records, key=lambda record: (record.finished_at, record.cell_id)),
        first.model_copy(update={"spec": again, "finished_at": one, "metrics": first.metrics[::-1]}),
        first.model_copy(
            update={
                "spec": older,
                "finished_at": two,
                "metrics": (),
                "phases": first.phases[:1],
            }
        ),
        invented.record("rtn", "W8A8", status="failed", reason="100 %\nof it", cell=odd, minute=10_000),
    ]


@pytest.mark.parametrize("count", [None, 0, 3])
def test_a_store_prints_the_rows_of_its_records(tmp_path: Path, count: int | None) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        for record in of_all_kinds():
            store.put(record)
        records = store.records(count)

        assert sum(row["outdated"] is not None for row in rows(records)) == (2 if count is None else min(count, 1))
        assert "".join(json_table(store.table(count))) == json.dumps(rows(records), indent=2, ensure_ascii=False)


def test_rows_that_are_not_kept_whole_are_made_from_the_records(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        for record in of_all_kinds():
            store.put(record)
        whole = "".join(json_table(store.table()))
    for change in (
        "UPDATE listed SET cells = replace(cells, '2', '3')",
        "UPDATE listed SET question = '?', versions = '?'",
        "UPDATE listed SET columns = 99",
        "UPDATE listed_columns SET columns = replace(columns, 'kl', 'ppl')",
        "UPDATE listed SET version = 0",
        "DELETE FROM listed",
        "DROP TABLE listed",
    ):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(change)
        with Store(path, read_only=True) as store:
            assert "".join(json_table(store.table())) == whole
    with Store(path) as store:
        changed = store.records()[0].model_copy(update={"status": "failed", "reason": "tried again"})
        store.put(changed)
        assert json.loads("".join(json_table(store.table(status="failed"))))[0]["reason"] == "tried again"


def test_what_a_store_keeps_of_a_record_has_a_version() -> None:
    """Stores hold rows of this version: if this fails, raise `VERSION` with the digest."""
    digest = hashlib.sha256(repr(listed(invented.benchmark()[1])).encode()).hexdigest()[:16]

    assert (VERSION, digest) == (1, "a4da11f69058d997")
