"""The lock of a store's one writer: an exclusive transaction on an empty database beside the store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from slmquant.errors import StoreError


def writer_lock(store: Path) -> sqlite3.Connection:
    """Lock a store for writing until the connection is closed, or the process ends.

    Raises:
        StoreError: Another process has locked it, or no lock can be made there.
        sqlite3.Error: No file can be made there.
    """
    path = store.with_name(f"{store.name}.writer-lock")
    lock = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise StoreError(f"cannot lock {path}: {error}") from error
        raise StoreError(
            f"{store} is being written by another process, probably a running `slmquant bench`; wait for it, or name "
            "another store with --store"
        ) from error
    return lock
