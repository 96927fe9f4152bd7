"""Writes entries of the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from slmquant._version import __version__
from slmquant.cache.entries import CONTENT, MANIFEST, Manifest, is_sound, stored_file
from slmquant.cache.upkeep import keep_limit
from slmquant.files import atomic_dir


@dataclass(frozen=True)
class About:
    """What an entry is, for people.

    Attributes:
        model: Name of the model that it is of.
        content: What it holds, in a few words.
    """

    model: str
    content: str


@contextmanager
def writing(entry: Path, about: About) -> Iterator[Path]:
    """Yield a temporary folder that becomes `entry` if the block succeeds; an entry written meanwhile stays.

    Older entries are removed if the cache exceeds its limit.

    Raises:
        OutputError: The cache is not writable.
        SpaceError: The disk is full.
    """
    with atomic_dir(entry, replace=False) as temporary:
        yield temporary
        names = sorted(file.relative_to(temporary).as_posix() for file in temporary.rglob("*") if file.is_file())
        manifest = Manifest(
            model=about.model,
            content=about.content,
            slmquant=__version__,
            made=datetime.now(timezone.utc),
            files={name: stored_file(temporary / name) for name in names},
        )
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        is_sound(entry)  # else it is removed, and makes way
    keep_limit(entry)


def put(entry: Path, about: About, content: bytes) -> None:
    """Write an entry of one file, which `entries.get` reads. Raises the same errors as `writing`."""
    with writing(entry, about) as temporary:
        (temporary / CONTENT).write_bytes(content)
