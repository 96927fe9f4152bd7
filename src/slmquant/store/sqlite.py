"""The result store: one SQLite file with a write-ahead log, one writer, and readers that are never blocked.

The writer holds an exclusive transaction on a second, empty database next to the store (`<name>.writer-lock`). The
operating system releases it when the process ends for any reason; readers ignore it. Each `put` is one transaction, so
a process killed at any moment leaves every finished cell intact.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from slmquant.errors import StoreError, UnknownNameError
from slmquant.store.documents import no_collection
from slmquant.store.export import TextRow
from slmquant.store.filters import Filters, condition
from slmquant.store.listed import create_tables, keep, kept, listed
from slmquant.store.migrations import MIGRATIONS, WITH_CHECKSUMS, migrate
from slmquant.store.outdated import apart, superseded
from slmquant.store.recommendations import KeptAnswer, create_table, keep_answer, kept_answers
from slmquant.store.record import FINISHED, CellSpec, ItemOutcome, Record
from slmquant.store.rows import answer_rows, checked_answers, checked_record, record_row
from slmquant.store.writer_lock import writer_lock

if TYPE_CHECKING:
    from typing_extensions import Unpack

APPLICATION_ID = 0x534C4D51
"""`SLMQ`, in the header of every store; distinguishes it from SQLite files of other programs."""

BUSY_TIMEOUT_S = 10.0
"""Longest wait for SQLite's own lock, e.g. while another process checkpoints the log."""

_AT_ONCE = 500
"""Most records that are in memory while what is missing of a table is made again."""


class Store:
    """A result store for any number of runs.

    ::

        with Store(default_store_path()) as store:
            store.put(record, items)

        with Store(path, read_only=True) as store:
            best = store.records(method="gptq", status="ok")

    Args:
        path: The file; a writer creates it and its parent folders.
        read_only: Open for reading only. Any number of readers may work while one writer does.

    Raises:
        StoreError: Another process writes to it, it is not a store, a newer slmquant wrote it, or (for a reader) it
            does not exist.
    """

    def __init__(self, path: Path | str, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._lock: sqlite3.Connection | None = None
        self._sums = ("record_xxh3", "items_xxh3")
        if read_only:
            if not begun(self.path):
                raise StoreError(f"no result store at {self.path}; run `slmquant bench`, or name another with --store")
        else:
            with self._explained():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = writer_lock(self.path)
        try:
            with self._explained():
                self._connection = self._open()
        except BaseException:
            self._release_lock()
            raise

    def put(self, record: Record, items: Iterable[ItemOutcome] = ()) -> None:
        """Store a record and its per-item answers, replacing those of the same cell.

        Raises:
            StoreError: The store is read-only, the disk is full, or an item occurs twice.
        """
        if self.read_only:
            raise StoreError(f"cannot write to {self.path}: it is open for reading only")
        answers = answer_rows(record.cell_id, items)
        row = record_row(record, answers)
        with self._explained(), self._transaction() as connection:
            connection.execute("DELETE FROM items WHERE cell_id = ?", (record.cell_id,))
            connection.execute("DELETE FROM records WHERE cell_id = ?", (record.cell_id,))
            connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            keep(connection, record)
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", answers)

    def get(self, name: str) -> Record:
        """The record named by a cell id, a unique prefix of one, or a label `[model/]method/scheme[/engine]`.

        If current and outdated records have the same label, the current one is returned.

        Raises:
            UnknownNameError: No record matches; the message gives the nearest labels.
            StoreError: Several records match; the message gives their cell ids.
        """
        if "/" in name:
            ending = f"/{name.lower()}"
            matching = [record for record in self.records() if f"/{record.spec.label.lower()}".endswith(ending)]
            outdated = apart(matching)
            matching = [record for record in matching if record.cell_id not in outdated] or matching
        else:
            matching = self._select("substr(cell_id, 1, ?) = ?", (len(name), name.lower())) if name else []
        if len(matching) == 1:
            return matching[0]
        if not matching:
            labels = {record.spec.label.removeprefix(f"{record.spec.model}/") for record in self.records()}
            raise UnknownNameError("cell", name, labels)
        listed = ", ".join(f"{record.cell_id} ({record.spec.label})" for record in matching[:8])
        raise StoreError(f"{name!r} matches {len(matching)} cells; give one cell id: {listed}")

    def finished(self, cell_id: str) -> bool:
        """Whether a plan may skip this cell, because it is `ok` or `refused`.

        Cells that failed, timed out or ran out of memory are tried again.
        """
        query = "SELECT status FROM records WHERE cell_id = ?"
        with self._explained():
            row = self._connection.execute(query, (cell_id,)).fetchone()
        return row is not None and row[0] in FINISHED

    def forget(self, model: str, model_sha256: str) -> None:
        """Delete the records of a model with this fingerprint, and their items."""
        where = "model = ? AND model_sha256 = ?"
        with self._explained(), self._transaction() as connection:
            cells = f"SELECT cell_id FROM records WHERE {where}"
            connection.execute(f"DELETE FROM items WHERE cell_id IN ({cells})", (model, model_sha256))
            connection.execute(f"DELETE FROM records WHERE {where}", (model, model_sha256))

    def records(self, latest: int | None = None, **filters: Unpack[Filters]) -> list[Record]:
        """The records that match all filters, in the order in which they were finished.

        Args:
            latest: Return only this many, those that were finished last; None for all.
            **filters: What the records must have.
        """
        return self._select(*condition(filters, latest))

    def table(self, latest: int | None = None, **filters: Unpack[Filters]) -> list[tuple[TextRow, str | None]]:
        """The rows of `export.rows` of the records that `records` returns, as text, and why each record is outdated."""
        where, arguments = condition(filters, latest)
        with no_collection():
            with self._explained():
                ends = self._connection.execute(f"SELECT finished_at, cell_id FROM records WHERE {where}", arguments)
                cells = [str(cell_id) for _, cell_id in sorted(ends, key=_in_order)]
                found = kept(self._connection, where, arguments)
            missing = [cell_id for cell_id in cells if cell_id not in found]
            for start in range(0, len(missing), _AT_ONCE):
                some = missing[start : start + _AT_ONCE]
                records = self._select(f"cell_id IN ({', '.join('?' * len(some))})", tuple(some))
                found |= {record.cell_id: listed(record) for record in records}
            cells = [cell_id for cell_id in cells if cell_id in found]  # a writer may have removed some
            outdated = superseded((found[cell_id].aged for cell_id in cells), self._spec)
            return [(found[cell_id].row, outdated.get(cell_id)) for cell_id in cells]

    def count(self, **filters: Unpack[Filters]) -> int:
        """Number of records that match all filters."""
        where, arguments = condition(filters)
        query = f"SELECT count(*) FROM records WHERE {where}"
        with self._explained():
            return int(self._connection.execute(query, arguments).fetchone()[0])

    def names(self, column: Literal["model", "method", "scheme"]) -> set[str]:
        """The models, methods or schemes of all records."""
        with self._explained():
            return {name for (name,) in self._connection.execute(f"SELECT DISTINCT {column} FROM records")}

    def items(self, cell_id: str, task: str | None = None) -> list[ItemOutcome]:
        """The per-item answers of one cell on a task (None for all tasks), in their order."""
        query = "SELECT cell_id, task, position, item, item_values FROM items WHERE cell_id = ? ORDER BY position"
        with self._explained():
            rows = self._connection.execute(query, (cell_id,)).fetchall()
            summed = self._connection.execute(f"SELECT {self._sums[1]} FROM records WHERE cell_id = ?", (cell_id,))
            [expected] = summed.fetchone() or [None]
        answers = checked_answers(self.path, cell_id, rows, expected)
        return [answer for answer in answers if task is None or answer.task == task]

    def keep_answer(self, answer: KeptAnswer) -> None:
        """Keep an answer of `slmquant recommend`."""
        with self._explained(), self._transaction() as connection:
            keep_answer(connection, answer)

    def answers(self) -> list[KeptAnswer]:
        """The answers of `slmquant recommend`, the latest last."""
        with self._explained():
            return kept_answers(self._connection)

    def damage(self) -> list[str]:
        """What is wrong with the file itself, one sentence each; records that cannot be read raise a `StoreError`."""
        with self._explained():
            rows = self._connection.execute("PRAGMA integrity_check").fetchall()
            orphans = len(self._connection.execute("PRAGMA foreign_key_check(items)").fetchall())
            known = {row[0] for row in self._connection.execute("SELECT cell_id FROM records")}
        lines = [f"SQLite reports: {text}" for (text,) in rows if text != "ok"]
        lines += [f"{orphans} answers belong to no cell"] if orphans else []
        changed = sorted(known ^ {record.cell_id for record in self.records()})
        return lines + [f"cell {cell_id} is stored under another id than its settings have" for cell_id in changed]

    def close(self) -> None:
        """Merge the log into the file and release the writer lock."""
        self._connection.close()
        self._release_lock()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _select(self, where: str, arguments: tuple[str | int, ...]) -> list[Record]:
        query = f"SELECT finished_at, cell_id, schema_version, record, {self._sums[0]} FROM records WHERE {where}"
        with self._explained():
            rows = self._connection.execute(query, arguments).fetchall()
        rows.sort(key=_in_order)  # SQLite would sort whole records
        with no_collection():
            return [checked_record(self.path, *row[1:]) for row in rows]

    def _spec(self, cell_id: str) -> CellSpec:
        return self._select("cell_id = ?", (cell_id,))[0].spec

    def _open(self) -> sqlite3.Connection:
        # A reader gets a writable connection with `query_only` set, so that the last one to close merges the log.
        # In a folder without write permission there is no log, and the file is opened as immutable.
        fixed = self.read_only and not os.access(self.path.parent, os.W_OK)
        uri = self.path.absolute().as_uri() + ("?immutable=1" if fixed else "")
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            version = self._checked_version(connection)
            if version < len(MIGRATIONS):
                if self.read_only and 0 < version < WITH_CHECKSUMS:
                    self._sums = ("NULL", "NULL")
                elif self.read_only:
                    Store(self.path).close()
                else:
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute("PRAGMA journal_mode = WAL")
                    migrate(connection)
            if not self.read_only:
                create_tables(connection)
                create_table(connection)
            connection.execute("PRAGMA query_only = ON" if self.read_only else "PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _checked_version(self, connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner != APPLICATION_ID and (tables or version or self.read_only):
            raise StoreError(f"{self.path} is a SQLite database, but not an slmquant store; name another with --store")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} has schema {version}, written by a newer slmquant; this one reads up to "
                f"{len(MIGRATIONS)}: update slmquant, or name another store with --store"
            )
        return version

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "not a database" in str(error):
                raise StoreError(f"{self.path} is not a SQLite database; name another store with --store") from error
            raise StoreError(f"cannot use the store {self.path}: {error}") from error
        except OSError as error:
            raise StoreError(f"cannot use the store {self.path}: {error}") from error


def begun(path: Path) -> bool:
    """Whether there is a store; one that could not be begun, for a full disk or a killed process, is an empty file."""
    return path.is_file() and path.stat().st_size > 0


def _in_order(row: tuple[object, ...]) -> tuple[str, str]:
    """Sort key of rows that begin with the time at which a cell finished, and its id."""
    return str(row[0]), str(row[1])
