"""Cells in a text file, one JSON object a line, so that what was measured can lie in a repository and be read again.

A line holds a record and what was answered on each item; a store that is given them takes them for its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from slmquant.errors import StoreError
from slmquant.files import atomic_file
from slmquant.store.record import ItemOutcome, Record
from slmquant.store.sqlite import Store

__all__ = ["read_cells", "restore", "write_cells"]

_DIGITS = 9
"""Significant digits of an item's values: more than float32, in which models compute, can tell apart."""


def write_cells(records: Iterable[Record], answers: Mapping[str, Sequence[ItemOutcome]], path: Path) -> None:
    """Write records, with the items of those that `answers` knows by cell id, in the order given."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            items = [_item(item) for item in answers.get(record.cell_id, ())]
            line = {"record": record.model_dump(mode="json"), "items": items}
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_cells(path: Path) -> tuple[list[Record], dict[str, list[ItemOutcome]]]:
    """The records of a file in its order, and the items of each by cell id.

    Raises:
        StoreError: There is no such file, or a line of it is none that `write_cells` wrote.
    """
    records: list[Record] = []
    answers: dict[str, list[ItemOutcome]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"published cells in {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            cell = json.loads(line)
            record = Record.model_validate(cell["record"])
            answers[record.cell_id] = [ItemOutcome.model_validate(item) for item in cell["items"]]
        except (ValueError, ValidationError, KeyError, TypeError) as error:
            raise StoreError(f"{path}, line {number}, is no published cell: {error}") from error
        records.append(record)
    return records, answers


def restore(path: Path, store: Store) -> int:
    """Put the cells of a file into a store that does not hold them yet; returns how many were."""
    records, answers = read_cells(path)
    known = {record.cell_id for record in store.records()}
    missing = [record for record in records if record.cell_id not in known]
    for record in missing:
        store.put(record, answers[record.cell_id])
    return len(missing)


def _item(item: ItemOutcome) -> dict[str, object]:
    fields = item.model_dump(mode="json", exclude_defaults=True)
    fields["values"] = {name: float(f"{value:.{_DIGITS}g}") for name, value in item.values.items()}
    return fields
