"""Migrations of the database schema, in order.

A database's `user_version` is the number of migrations applied to it; its table `migrations` names them. To change the
schema, append a function; never edit one that has been released.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timezone


def create_records_and_items(connection: sqlite3.Connection) -> None:
    """Create the tables of records (JSON plus searchable columns) and of per-item answers."""
    connection.execute(
        """
        CREATE TABLE records (
            cell_id TEXT PRIMARY KEY,
            model TEXT NOT NULL,
            model_sha256 TEXT NOT NULL,
            method TEXT NOT NULL,
            scheme TEXT NOT NULL,
            status TEXT NOT NULL,
            finished_at TEXT NOT NULL,
            schema_version INTEGER NOT NULL,
            record TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )
    connection.execute("CREATE INDEX records_by_label ON records (model, method, scheme)")
    connection.execute("CREATE INDEX records_by_status ON records (status)")
    connection.execute(
        """
        CREATE TABLE items (
            cell_id TEXT NOT NULL REFERENCES records (cell_id) ON DELETE CASCADE,
            task TEXT NOT NULL,
            position INTEGER NOT NULL,
            item TEXT NOT NULL,
            item_values TEXT NOT NULL,
            PRIMARY KEY (cell_id, task, item)
        ) WITHOUT ROWID
        """
    )


def add_checksums(connection: sqlite3.Connection) -> None:
    """Add checksums of each record and of its items; rows of earlier versions have none."""
    connection.execute("ALTER TABLE records ADD COLUMN record_xxh3 TEXT")
    connection.execute("ALTER TABLE records ADD COLUMN items_xxh3 TEXT")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (create_records_and_items, add_checksums)
WITH_CHECKSUMS = 2
"""The first schema with checksums; readers read a store of schema 1 as it is."""


def migrate(connection: sqlite3.Connection) -> None:
    """Apply all missing migrations to a database in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"
        )
        seen = connection.execute("PRAGMA user_version").fetchone()[0]
        for version, function in enumerate(MIGRATIONS[seen:], start=seen + 1):
            function(connection)
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (version, function.__name__, now))
            connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
