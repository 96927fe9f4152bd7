"""Published cells: what is written is read again, and a store takes it for its own."""

from pathlib import Path

import pytest

from slmquant.errors import StoreError
from slmquant.store.combine import add_cells
from slmquant.store.jsonlines import read_cells, write_cells
from slmquant.store.record import ItemOutcome, Record
from slmquant.store.sqlite import Store
from tests import invented


def answers(records: list[Record]) -> dict[str, list[ItemOutcome]]:
    return {
        record.cell_id: [
            ItemOutcome(task=invented.TEXT, item=str(item), values={"nll_mean": 3.0 + item / 7}, text="a\u2028b")
            for item in range(3)
        ]
        for record in records
    }


def test_cells_come_back_as_they_were(tmp_path: Path) -> None:
    records = invented.benchmark()
    write_cells(records, answers(records), tmp_path / "cells.jsonl")
    found, items = read_cells(tmp_path / "cells.jsonl")

    assert found == records
    assert {cell: [item.item for item in kept] for cell, kept in items.items()} == {
        record.cell_id: ["0", "1", "2"] for record in records
    }
    assert items[records[0].cell_id][1].values["nll_mean"] == pytest.approx(3.0 + 1 / 7, rel=1e-8)
    assert items[records[0].cell_id][0].text == "a\u2028b"


def test_a_store_takes_what_it_lacks_and_no_more(tmp_path: Path) -> None:
    records = invented.benchmark()
    write_cells(records, answers(records), tmp_path / "cells.jsonl")
    with Store(tmp_path / "store.sqlite") as store:
        store.put(records[0])

        assert add_cells(store, [tmp_path / "cells.jsonl"]).added == len(records) - 1
        assert add_cells(store, [tmp_path / "cells.jsonl"]).added == 0
        assert {record.cell_id for record in store.records()} == {record.cell_id for record in records}
        assert store.items(records[0].cell_id) == []
        assert len(store.items(records[1].cell_id)) == 3


@pytest.mark.parametrize("line", ["{", '{"record": {}, "items": []}', "[]", '{"items": []}'])
def test_what_is_no_cell_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    records = invented.benchmark()[:1]
    path = tmp_path / "cells.jsonl"
    write_cells(records, {}, path)
    path.write_text(path.read_text() + line + "\n")

    with pytest.raises(StoreError, match=r"cells\.jsonl, line 2"):
        read_cells(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.jsonl"):
        read_cells(tmp_path / "none.jsonl")
