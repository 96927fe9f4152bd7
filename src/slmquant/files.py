"""Atomic writes, output checks, disk space and checksums."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from slmquant.boundary import size_text, writing
from slmquant.errors import OutputError, SpaceError
from slmquant.exchange import put_back, put_in_place

_CHUNK_BYTES = 1 << 22
_LEFTOVER_AGE_S = 24 * 3600
UNFINISHED = "slmquant-unfinished"
"""Part of the name of unfinished files, so that no other file is mistaken for one."""


def cache_dir() -> Path:
    """Cache folder for models, calibration statistics and reference states (`SLMQUANT_CACHE`)."""
    return Path(os.environ.get("SLMQUANT_CACHE") or platformdirs.user_cache_dir("slmquant")).expanduser()


def sha256(path: Path, start: int = 0, stop: int | None = None) -> str:
    """Hexadecimal SHA-256 of bytes `start` to `stop` of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = None if stop is None else stop - start
        while chunk := file.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left)):
            digest.update(chunk)
            left = None if left is None else left - len(chunk)
    return digest.hexdigest()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Check, before a long write, that the disk of `folder` has `needed_bytes` free.

    Raises:
        SpaceError: It has less.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SpaceError(
            f"{size_text(needed_bytes)} are needed in {folder} and {size_text(free)} are free; "
            "free some space, or set SLMQUANT_CACHE to a folder on another disk"
        )


def folder_bytes(folder: Path) -> int:
    """Total size of all files in a folder and its subfolders."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove_leftovers(folder: Path, pattern: str = ".*") -> None:
    """Remove hidden temporary entries of `folder` older than a day, left by killed processes."""
    for entry in folder.glob(pattern):
        try:
            if time.time() - entry.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
        except FileNotFoundError:  # its process has just finished
            continue
        remove(entry)


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_output(
    path: Path,
    folder: bool,
    ours: Callable[[Path], bool] | None = None,
    overwrite: bool = False,
    source: Path | None = None,
    least_bytes: int = 0,
) -> None:
    """Check an output path before the computation: it must be writable and not destroy other data.

    Args:
        path: Path of the file or folder to write.
        folder: Whether the output is a folder.
        ours: Returns whether an existing folder is an earlier output, which may be replaced; None if unknown.
        overwrite: Whether an existing file, or a folder with other contents, may be replaced.
        source: Input of the computation, which the output must not touch.
        least_bytes: Lower bound of the size of the output.

    Raises:
        OutputError: The file exists; the path is a folder instead of a file, or the reverse; the folder has other
            contents; the path is the source, contains it, or is inside it; or it is not writable.
        SpaceError: The disk has not enough free space.
    """
    if source is not None:
        _check_apart(path, source)
    _check_replaceable(path, folder, ours, overwrite)
    place = path.resolve().parent
    while not place.exists():
        place = place.parent
    with writing(path):
        tempfile.TemporaryFile(dir=place).close()
    require_space(place, least_bytes)


def _check_apart(path: Path, source: Path) -> None:
    """Refuse an output that would destroy its source; links are resolved first."""
    output, origin = path.resolve(), source.resolve()
    if output == origin:
        raise OutputError(f"output {path} is also the input and would be lost; choose another path")
    if origin.is_relative_to(output):
        raise OutputError(f"output {path} contains the input {source}; choose another path")
    if output.is_relative_to(origin):
        raise OutputError(f"output {path} is inside the input {source}; choose another path")


def _check_replaceable(path: Path, folder: bool, ours: Callable[[Path], bool] | None, overwrite: bool) -> None:
    if not path.exists():
        return
    if not folder:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give a file name")
        if not overwrite:
            raise OutputError(f"{path} already exists; choose a new file name, or use --overwrite")
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file; give a folder name")
    if not overwrite and any(path.iterdir()) and (ours is None or not ours(path)):
        raise OutputError(
            f"{path} is a folder with other contents, which would be lost; choose a new folder, or use --overwrite"
        )


def make_folder(folder: Path) -> None:
    """Create a folder and check, before the computation, that it is writable.

    Raises:
        OutputError: It is not.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` if the block succeeds, else remove it.

    The permissions follow the user's umask, whatever a library sets. A link is followed: its target is replaced.

    Raises:
        OutputError: The path is not writable.
        SpaceError: The disk is full.
    """
    with writing(path):
        target, temporary = _beside(path)
        mode = _touch(temporary)
    try:
        with writing(path):  # checks the disk before the temporary file is removed
            yield temporary
            temporary.chmod(mode)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; rename it to `path` if the block succeeds, else remove it.

    An existing folder at `path` is replaced only once the new one is complete, in one step if the system supports it
    (see `slmquant.exchange`); with `replace` off it stays, and the new one is removed. The permissions of the folder
    and its contents follow the user's umask. A link is followed: its target is replaced.

    Raises:
        OutputError: The path is not writable.
        SpaceError: The disk is full.
    """
    with writing(path):
        target, temporary = _beside(path)
        temporary.mkdir()
        mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        with writing(path):  # checks the disk before the temporary file is removed
            yield temporary
            _open_to_others(temporary, mode)
            if replace or not target.exists():
                put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """(resolved `path`, new temporary path next to it); old temporary files of `path` are removed."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    name = target.name.encode()[:80].decode(errors="ignore")  # file names may have 255 bytes
    put_back(target, f".{glob.escape(name)}.{UNFINISHED}-*")
    remove_leftovers(target.parent, f".{glob.escape(name)}.{UNFINISHED}-*")
    return target, target.parent / f".{name}.{UNFINISHED}-{secrets.token_hex(6)}"


def _touch(path: Path) -> int:
    """Create an empty file and return its permissions, which follow the user's umask."""
    with path.open("xb") as file:
        return stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def _open_to_others(folder: Path, mode: int) -> None:
    """Apply the permissions of a folder to its contents."""
    for entry in folder.rglob("*"):
        entry.chmod(mode if entry.is_dir() else mode & 0o666)
