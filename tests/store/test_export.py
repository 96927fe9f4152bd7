"""Exports are flat, stable, and never turn absence into a number."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from slmquant.report.files import write_report_csv, write_report_json
from slmquant.store.export import rows, write_csv, write_jsonl
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
