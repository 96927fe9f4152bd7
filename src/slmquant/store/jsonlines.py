"""Cells as a text file, one JSON object per line, so that results can be kept in a repository and read again.

A line holds a record and its per-item answers; `store.combine.add_cells` puts them back into a store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from slmquant.errors import StoreError
from slmquant.files import atomic_file
from slmquant.store.record import ItemOutcome, Record

__all__ = ["read_cells", "write_cells"]

_DIGITS = 9
"""Significant digits of an item's values; more than the precision of float32, in which models compute."""


def write_cells(records: Iterable[Record], answers: Mapping[str, Sequence[ItemOutcome]], path: Path) -> None:
    """Write records in the order given, each with its items from `answers` (by cell id)."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            items = [_item(item) for item in answers.get(record.cell_id, ())]
            line = {"record": record.model_dump(mode="json"), "items": items}
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_cells(path: Path) -> tuple[list[Record], dict[str, list[ItemOutcome]]]:
    """Read the records of a file in its order, and their items by cell id.

    Raises:
        StoreError: There is no such file, or a line is not in the format of `write_cells`.
    """
    records: list[Record] = []
    answers: dict[str, list[ItemOutcome]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"published cells {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            cell = json.loads(line)
            record = Record.model_validate(cell["record"])
            answers[record.cell_id] = [ItemOutcome.model_validate(item) for item in cell["items"]]
        except (ValueError, ValidationError, KeyError, TypeError) as error:
            raise StoreError(f"{path}, line {number}, is not a published cell: {error}") from error
        records.append(record)
    return records, answers


def _item(item: ItemOutcome) -> dict[str, object]:
    fields = item.model_dump(mode="json", exclude_defaults=True)
    fields["values"] = {name: float(f"{value:.{_DIGITS}g}") for name, value in item.values.items()}
    return fields
