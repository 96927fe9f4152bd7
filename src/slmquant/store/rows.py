"""The rows of a store's tables: made from records and their answers, and read back.

Each record and the answers of each cell have a checksum, as SQLite has none for its file: a flipped bit is an error and
never another number. Like those of the cache they are XXH3, which notices accidents, not attacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import xxhash

from slmquant.boundary import guarded
from slmquant.errors import StoreError
from slmquant.store.documents import outcome_json, read_outcome, read_record
from slmquant.store.record import ItemOutcome, Record

Row = tuple[str | int, ...]


def record_row(record: Record, answers: Sequence[Row]) -> Row:
    """The row of a record in the table `records`, whose answers have the rows `answers`."""
    spec, text = record.spec, record.model_dump_json()
    return (
        record.cell_id,
        spec.model,
        spec.model_sha256,
        spec.method,
        spec.scheme,
        record.status,
        record.finished_at.isoformat(),
        record.schema_version,
        text,
        _checksum([(record.cell_id, text)]),
        _checksum(answers),
    )


def answer_rows(cell_id: str, items: Iterable[ItemOutcome]) -> list[Row]:
    """The rows of a cell's answers in the table `items`."""
    return [(cell_id, item.task, position, item.item, outcome_json(item)) for position, item in enumerate(items)]


def checked_record(store: Path, cell_id: str, version: object, text: object, expected: str | None) -> Record:
    """A record, from its columns.

    Args:
        store: The store, for messages.
        cell_id: The cell's id.
        version: The record's schema.
        text: Its JSON.
        expected: Its checksum; None in rows of versions without.

    Raises:
        StoreError: It is damaged, or a newer slmquant wrote it.
    """
    record = read_record(store, version, text)
    if expected is not None and expected != _checksum([(cell_id, text)]):
        raise StoreError(f"{store}: the record of cell {cell_id} differs from its checksum; restore it from a backup")
    return record


def checked_answers(store: Path, cell_id: str, rows: Sequence[Row], expected: str | None) -> list[ItemOutcome]:
    """The answers of a cell, from all its rows in their order.

    Args:
        store: The store, for messages.
        cell_id: The cell's id.
        rows: Columns as `answer_rows` makes them.
        expected: Their checksum; None in rows of versions without.

    Raises:
        StoreError: They are damaged.
    """
    if expected is not None and expected != _checksum(rows):
        raise StoreError(f"{store}: the answers of cell {cell_id} differ from their checksum; restore it from a backup")
    damaged = f"{store} contains unreadable answers of cell {cell_id}"
    with guarded(lambda why: f"{damaged} ({why}); restore the file from a backup", StoreError):
        return [read_outcome(str(task), str(item), str(values)) for _, task, _, item, values in rows]


def _checksum(rows: Iterable[Iterable[object]]) -> str:
    """XXH3 checksum of rows, in their order: 32 hexadecimal digits."""
    text = "\n".join("\0".join(map(str, row)) for row in rows)
    return xxhash.xxh3_128_hexdigest(text.encode())
