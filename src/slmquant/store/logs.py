"""Logs of cells: what each printed while it ran, in a folder next to the store."""

from __future__ import annotations

import contextlib
from pathlib import Path

_MOST_LOGS = 200


def log_of(store: Path, cell_id: str) -> Path:
    """The log of a cell of a store; a cell that printed nothing has none."""
    return logs_folder(store) / f"{cell_id}.log"


def logs_folder(store: Path) -> Path:
    """The folder of a store's logs."""
    return store.with_name(f"{store.name}.logs")


def new_log(store: Path, cell_id: str) -> Path:
    """The log of a cell that begins; that of an earlier try is removed."""
    log = log_of(store, cell_id)
    with contextlib.suppress(OSError):  # a cell may run without a log
        log.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
    return log


def tidy(store: Path) -> None:
    """Remove empty logs, and the oldest ones if there are more than 200."""
    with contextlib.suppress(OSError):
        logs = list(logs_folder(store).glob("*.log"))
        ages = {log: log.stat().st_mtime for log in logs if log.stat().st_size}
        newest = sorted(ages, key=lambda log: ages[log])[-_MOST_LOGS:]
        for log in set(logs) - set(newest):
            log.unlink(missing_ok=True)
        if not newest:
            logs_folder(store).rmdir()
