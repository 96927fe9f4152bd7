"""What `slmquant list` shows of records, kept beside them, so that a large store is listed without parsing any.

These tables only repeat what the records say: a row that is missing or damaged, or that another version made, is made
again from its record when it is read, and an slmquant that does not know the tables leaves them alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_128_hexdigest

from slmquant.store.export import TextRow, text_row
from slmquant.store.outdated import Aged, aged
from slmquant.store.record import Record

VERSION = 1
"""Version of what is kept; to be raised when `export.text_row` or `outdated.aged` return something else."""


class Listed(NamedTuple):
    """What is kept of a record: what decides whether it is outdated, and its row."""

    aged: Aged
    row: TextRow


def listed(record: Record) -> Listed:
    """What is kept of a record."""
    return Listed(aged(record), text_row(record))


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables, unless the store has them."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS listed_columns (id INTEGER PRIMARY KEY, columns TEXT NOT NULL UNIQUE)"
    )
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS listed (
            cell_id TEXT PRIMARY KEY REFERENCES records (cell_id) ON DELETE CASCADE,
            version INTEGER NOT NULL,
            row_xxh3 TEXT NOT NULL,
            finished INTEGER NOT NULL,
            question TEXT NOT NULL,
            versions TEXT NOT NULL,
            columns INTEGER NOT NULL REFERENCES listed_columns (id),
            cells TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )


def keep(connection: sqlite3.Connection, record: Record) -> None:
    """Keep what is shown of a record that is being stored."""
    row = listed(record)
    (cell_id, finished, question, versions), (columns, cells) = row
    connection.execute("INSERT OR IGNORE INTO listed_columns (columns) VALUES (?)", (columns,))
    connection.execute(
        "INSERT INTO listed SELECT ?, ?, ?, ?, ?, ?, id, ? FROM listed_columns WHERE columns = ?",
        (cell_id, VERSION, _checksum(row), finished, question, versions, cells, columns),
    )


def _checksum(row: Listed) -> str:
    """XXH3 checksum of a row."""
    (cell_id, finished, question, versions), (columns, cells) = row
    return xxh3_128_hexdigest("\0".join((cell_id, str(finished), question, versions, columns, cells)).encode())


def kept(connection: sqlite3.Connection, where: str, arguments: Sequence[str | int]) -> dict[str, Listed]:
    """Cell id → what is kept of the records that a condition selects, without what is damaged or of another version."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'listed'").fetchone()[0]:
        return {}
    layouts: dict[int, str] = dict(connection.execute("SELECT id, columns FROM listed_columns"))
    found = connection.execute(
        "SELECT cell_id, finished, question, versions, columns, cells, row_xxh3 FROM records "
        f"JOIN listed USING (cell_id) WHERE version = {VERSION} AND {where}",
        arguments,
    )
    rows: dict[str, Listed] = {}
    for cell_id, finished, question, versions, columns, cells, checksum in found:
        row = Listed(Aged(cell_id, bool(finished), question, versions), TextRow(layouts.get(columns, ""), cells))
        if checksum == _checksum(row):
            rows[cell_id] = row
    return rows
