"""Files on their way through Ray's object store: entries of a cache, and folders of the machine that runs the command.

Machines of a cluster need no common folder. Each computes with its own cache (`SLMQUANT_CACHE`), which may be one
shared folder; what is there already is not written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmquant.cache.entries import entry_path, is_sound
from slmquant.cache.write import About, writing
from slmquant.files import atomic_dir, sha256

Files = Mapping[str, NDArray[np.uint8]]
"""Path within a folder → content; Ray shares arrays between the processes of a machine without copying them."""
Parcel = Mapping[str, Files]
"""Path within the cache → the entry's files."""

RECEIVED = "received"
"""Kind of the entries of folders that were sent."""
_FILES = "files"


def read_files(folder: Path) -> Files:
    """All files of a folder and its subfolders."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def write_files(files: Files, folder: Path) -> None:
    """Write files into a folder, which is created.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content.tofile(path)


def pack(entries: Iterable[Path], cache_dir: Path) -> Parcel:
    """Entries of a cache, to be sent."""
    return {entry.relative_to(cache_dir).as_posix(): read_files(entry) for entry in entries}


def unpack(parcel: Parcel, cache_dir: Path) -> None:
    """Write the entries that a cache does not have.

    Raises:
        OutputError: The cache is not writable.
        SpaceError: The disk is full.
    """
    for name, files in parcel.items():
        if not is_sound(cache_dir / name):
            with atomic_dir(cache_dir / name, replace=False) as temporary:
                write_files(files, temporary)


@dataclass(frozen=True)
class SentFile:
    """A file in Ray's object store.

    Attributes:
        size: Its size in bytes.
        changed_s: When it was last changed, in whole seconds since 1970.
        content: Ray's reference to its content.
    """

    size: int
    changed_s: int
    content: Any  # ray.ObjectRef; Ray is optional


@dataclass(frozen=True)
class SentFolder:
    """A folder of the machine that runs the command: a model, or data.

    Attributes:
        path: Where it is there.
        digest: SHA-256 of its names and contents.
        files: Path within the folder → the file.
    """

    path: Path
    digest: str
    files: Mapping[str, SentFile]

    @property
    def is_here(self) -> bool:
        """Whether this machine has the same folder in the same place: a shared one, or a copy with the same times."""
        try:
            stats = {name: (self.path / name).stat() for name in self.files}
        except OSError:
            return False
        return all(
            (stats[name].st_size, int(stats[name].st_mtime)) == (f.size, f.changed_s) for name, f in self.files.items()
        )

    def place(self, cache_dir: Path, fetch: Callable[[Any], NDArray[np.uint8]]) -> Path:
        """Path of the folder on this machine; it is received into the cache if it is not there yet.

        Raises:
            OutputError: The cache is not writable.
            SpaceError: The disk is full.
        """
        if self.is_here:
            return self.path
        entry = entry_path(cache_dir, RECEIVED, self.digest)
        if not is_sound(entry):
            with (
                writing(entry, About(self.path.name, "files sent by Ray")) as temporary,
                ThreadPoolExecutor(1) as thread,
            ):
                for name, file in self.files.items():  # Ray lends out the processors of a task whose main thread waits
                    write_files({name: thread.submit(fetch, file.content).result()}, temporary / _FILES)
        return entry / _FILES


def send_folder(folder: Path, names: Iterable[str], put: Callable[[NDArray[np.uint8]], Any]) -> SentFolder:
    """Put files of a folder into Ray's object store.

    Args:
        folder: The folder.
        names: Paths within it.
        put: Ray's `put`.
    """
    digest, files = hashlib.sha256(), {}
    for name in sorted(names):
        path = folder / name
        digest.update(f"{name} {sha256(path)}\n".encode())
        stat = path.stat()
        files[name] = SentFile(stat.st_size, int(stat.st_mtime), put(np.fromfile(path, np.uint8)))
    return SentFolder(folder.resolve(), digest.hexdigest(), files)
