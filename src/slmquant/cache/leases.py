"""Leases: an entry of the cache that a process uses is not removed by another."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be moved away
    fcntl = None  # type: ignore[assignment]


class Lease:
    """Keeps an entry from being removed, for as long as this object exists; it ends with the process at the latest.

    Args:
        manifest: A file of the entry. Its modification time becomes now: the time of last use.

    Raises:
        OSError: The file does not exist or cannot be read.
    """

    def __init__(self, manifest: Path) -> None:
        handle = os.open(manifest, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, handle)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        mark_used(manifest)

    def __enter__(self) -> None:
        """Keep the entry until the block ends."""

    def __exit__(self, *error: object) -> None:
        self._close()


def mark_used(manifest: Path) -> None:
    """Set the modification time of an entry's manifest, which is its time of last use, to now."""
    with contextlib.suppress(OSError):  # a read-only cache
        os.utime(manifest)


@contextmanager
def unused(manifest: Path) -> Iterator[bool]:
    """Whether no process has a lease on an entry; while the block runs, none can get one."""
    try:
        handle = os.open(manifest, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)
