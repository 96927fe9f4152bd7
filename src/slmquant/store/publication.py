"""Texts of records as others may see them: no folder of this machine is named.

A store keeps model sources as they were given, which is how a cell is found again. Reports are given away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from slmquant.boundary import without_folders
from slmquant.files import cache_dir
from slmquant.store.record import Record


def publisher(records: Sequence[Record]) -> Callable[[str], str]:
    """What takes the folders out of a text: those of the records' models and of this process, by name, and others."""
    sources = {Path(record.spec.model).expanduser() for record in records}
    folders = {source.parent for source in sources if source.is_absolute()}
    folders |= {Path(record.spec.model).parent for record in records if record.spec.model.startswith("~/")}
    folders |= {Path.cwd(), Path.home(), cache_dir(), Path(os.environ.get("SLMQUANT_DATA") or Path.home())}
    return lambda text: without_folders(text, folders)


def published(value: object, publish: Callable[[str], str]) -> object:
    """A value of JSON with every text in it, names of fields aside, as `publish` gives it."""
    if isinstance(value, str):
        return publish(value)
    if isinstance(value, dict):
        return {name: published(each, publish) for name, each in value.items()}
    return [published(each, publish) for each in value] if isinstance(value, list | tuple) else value
