"""Remove local folders from the texts of records before they are published.

A store keeps model sources as given, because cells are identified by them. Reports are shared with others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from slmquant.boundary import without_folders
from slmquant.files import cache_dir
from slmquant.store.record import Record


def publisher(records: Sequence[Record]) -> Callable[[str], str]:
    """A function that removes local folders from a text, those of the records' models and of this process included."""
    sources = {Path(record.spec.model).expanduser() for record in records}
    folders = {source.parent for source in sources if source.is_absolute()}
    folders |= {Path(record.spec.model).parent for record in records if record.spec.model.startswith("~/")}
    folders |= {Path.cwd(), Path.home(), cache_dir(), Path(os.environ.get("SLMQUANT_DATA") or Path.home())}
    return lambda text: without_folders(text, folders)


def published(value: object, publish: Callable[[str], str]) -> object:
    """Apply `publish` to every text in a JSON value, except field names."""
    if isinstance(value, str):
        return publish(value)
    if isinstance(value, dict):
        return {name: published(each, publish) for name, each in value.items()}
    return [published(each, publish) for each in value] if isinstance(value, list | tuple) else value
