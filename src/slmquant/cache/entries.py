"""Entries of the cache: folders whose files have checksums, written whole or not at all, checked when read.

An entry is the folder `KIND/KEY` of the cache. Its key is a hash of everything that decides its content (`entry_path`),
and its `entry.json` says what it is and has a checksum of every file. A damaged entry is never used: it is removed, the
damage is logged in one line, and whoever wanted the entry computes it again.

The checksum is XXH3 with 128 bits, which notices accidents, not attacks. It takes 0.07 s for 500 MB, as long as reading
them from memory; SHA-256 takes 0.5 s (`benchmarks/cache_checksums.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from datetime import datetime
from pathlib import Path

import xxhash
from pydantic import BaseModel, ConfigDict

from slmquant.boundary import reason, size_text
from slmquant.cache.leases import Lease, mark_used
from slmquant.errors import CacheError
from slmquant.files import UNFINISHED, remove

MANIFEST = "entry.json"
CONTENT = "content.json"
"""The file of an entry of one file."""
_CHUNK_BYTES = 1 << 20

log = logging.getLogger("slmquant")


class StoredFile(BaseModel):
    """A file of an entry."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    xxh3: str
    """Its XXH3 checksum: 32 hexadecimal digits."""


class Manifest(BaseModel):
    """The description that an entry carries."""

    model_config = ConfigDict(frozen=True)

    model: str
    """Name of the model that it is of."""
    content: str
    """What it holds, in a few words."""
    slmquant: str
    """Version of slmquant that wrote it."""
    made: datetime
    files: dict[str, StoredFile]
    """Path within the entry → the file."""


def entry_path(cache_dir: Path, kind: str, key: object) -> Path:
    """Folder of the entry that `key` decides.

    Args:
        cache_dir: Folder of the cache.
        kind: Subfolder of its kind.
        key: Everything that decides the content, as JSON values.
    """
    return cache_dir / kind / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def get(entry: Path) -> bytes | None:
    """The content of an entry of one file; None if there is none, or if it was damaged, which is logged."""
    if not entry.exists():
        return None
    try:
        content = checked(entry, CONTENT).read_bytes()
    except (CacheError, OSError):
        return None
    mark_used(entry / MANIFEST)
    return content


def is_sound(entry: Path) -> bool:
    """Whether an entry exists and all its files are as they were written; a damaged one is removed and logged."""
    if not entry.exists():
        return False
    found = damage(entry)
    if found is None:
        mark_used(entry / MANIFEST)
    else:
        discard(entry, found)
    return found is None


def checked(entry: Path, name: str) -> Path:
    """Path of a file of an entry, after its checksum was checked.

    Raises:
        CacheError: The entry is gone, or damaged; then it is removed and the damage is logged.
    """
    found = damage(entry, name)
    if found is None:
        return entry / name
    if entry.exists():
        discard(entry, found)
    raise CacheError(f"{_name(entry)} of the cache is gone or was damaged ({found}); run it again to compute it anew")


def lease(entry: Path) -> Lease:
    """Keep an entry from being removed by another process, as long as the result exists.

    Raises:
        CacheError: There is no such entry.
    """
    try:
        return Lease(entry / MANIFEST)
    except OSError as error:
        raise CacheError(f"{_name(entry)} of the cache is gone ({reason(error)}); run it again") from error


def using(entry: Path) -> Lease:
    """Check an entry, and keep it from being removed as long as the result exists.

    Raises:
        CacheError: There is no such entry, or it was damaged; then it is removed.
    """
    if not is_sound(entry):
        raise CacheError(f"{_name(entry)} of the cache is gone or was damaged; run it again to compute it anew")
    return lease(entry)


def read_manifest(entry: Path) -> Manifest:
    """The description of an entry.

    Raises:
        OSError, ValueError: It is missing or damaged.
    """
    return Manifest.model_validate_json((entry / MANIFEST).read_bytes())


def damage(entry: Path, name: str | None = None) -> str | None:
    """What is wrong with an entry, or with one of its files, in a few words; None if nothing is."""
    try:
        files = read_manifest(entry).files
        for each in files if name is None else (name,):
            if each not in files:
                return f"{MANIFEST} does not list {each}"
            size = (entry / each).stat().st_size
            if size != files[each].bytes:
                return f"{each} has {size_text(size)} instead of {size_text(files[each].bytes)}"
            if stored_file(entry / each) != files[each]:
                return f"{each} differs from its checksum"
    except OSError as error:
        return reason(error)
    except ValueError:
        return f"{MANIFEST} cannot be read"
    return None


def discard(entry: Path, why: str | None = None) -> None:
    """Remove an entry in one step; with `why`, say in the log that it was damaged."""
    if why is not None:
        log.warning("cache: %s was damaged (%s); it is computed again", _name(entry), why)
    away = entry.with_name(f".{entry.name}.{UNFINISHED}-{secrets.token_hex(6)}")
    try:
        entry.rename(away)
    except FileNotFoundError:  # another process was faster
        return
    except OSError:  # a read-only cache, or a file that Windows holds open
        remove(entry)
        return
    remove(away)


def _name(entry: Path) -> str:
    return f"{entry.parent.name}/{entry.name}"


def stored_file(file: Path) -> StoredFile:
    """Size and checksum of a file."""
    digest, size = xxhash.xxh3_128(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as opened:
        while read := opened.readinto(buffer):
            digest.update(buffer[:read])
            size += read
    return StoredFile(bytes=size, xxh3=digest.hexdigest())
