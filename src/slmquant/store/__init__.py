"""The result store: records in SQLite, with one writer, readable without torch."""

from __future__ import annotations

import os
from pathlib import Path

from slmquant.store.record import Record
from slmquant.store.sqlite import Store

__all__ = ["Record", "Store", "default_store_path"]


def default_store_path() -> Path:
    """Default path of the store: `SLMQUANT_STORE`, else `results/slmquant.sqlite` in the current folder."""
    return Path(os.environ.get("SLMQUANT_STORE") or Path("results", "slmquant.sqlite")).expanduser()
