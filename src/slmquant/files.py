"""Writing so that nothing is ever half-written, and checksums."""

from __future__ import annotations

import contextlib
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
_MARK = "slmquant-unfinished"
"""In the name of what is not whole yet, so that nothing of anybody else's is ever taken for it."""


def cache_dir() -> Path:
    """Where fetched models, captured statistics and reference states are kept (`SLMQUANT_CACHE`)."""
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
    """Check, before a long write, that the disk of `folder` can take `needed_bytes`.

    Raises:
        SpaceError: It cannot.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SpaceError(
            f"{size_text(needed_bytes)} are needed in {folder} and {size_text(free)} are free; "
            "free some, or point SLMQUANT_CACHE at another disk"
        )


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove_leftovers(folder: Path, pattern: str = ".*") -> None:
    """Remove the hidden temporary entries of `folder` that a killed process left there over a day ago."""
    for entry in folder.glob(pattern):
        try:
            if time.time() - entry.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
        except FileNotFoundError:  # its owner has just finished
            continue
        remove(entry)


def forget_oldest(folder: Path, most_bytes: int) -> list[Path]:
    """Remove the entries of `folder` that were used longest ago, until all together take `most_bytes` at most.

    What was used within a day stays, since another process may read it; `mark_used` says that something is.

    Returns:
        What was removed.
    """
    entries = list(folder.glob("[!.]*")) if folder.is_dir() else []
    sizes = {entry: folder_bytes(entry) if entry.is_dir() else entry.stat().st_size for entry in entries}
    used = {entry: entry.stat().st_mtime for entry in entries}
    total, removed = sum(sizes.values()), []
    for entry in sorted(entries, key=lambda entry: used[entry]):
        if total <= most_bytes or time.time() - used[entry] < _LEFTOVER_AGE_S:
            break
        remove(entry)
        total -= sizes[entry]
        removed.append(entry)
    return removed


def mark_used(path: Path) -> None:
    """Let `path` count as used now, where the system allows it."""
    with contextlib.suppress(OSError):
        os.utime(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, where it is there."""
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
    """Refuse an output that would take the place of something else, before anything is computed for it.

    Args:
        path: Where a file or a folder shall be written.
        folder: Whether it will be a folder.
        ours: Whether a folder that is there already is an earlier output, which may be replaced; None where that
            cannot be told.
        overwrite: Whether a file, or a folder of other things, may be replaced, too.
        source: What it is made from, which it must not touch.
        least_bytes: What it takes at the least, as far as that is known already.

    Raises:
        OutputError: A file is there already; a folder lies where a file shall be written, or the reverse; or the folder
            holds other things; it is the source, holds it, or lies in it; or nothing can be written there.
        SpaceError: The disk has no room for it.
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
    """Refuse an output that would destroy what it is made from, by whatever links it is named."""
    output, origin = path.resolve(), source.resolve()
    if output == origin:
        raise OutputError(f"{path} is what it would be made from, and would be lost; name another place")
    if origin.is_relative_to(output):
        raise OutputError(f"{path} holds {source}, what it would be made from; name another place")
    if output.is_relative_to(origin):
        raise OutputError(f"{path} lies in {source}, what it would be made from; name another place")


def _check_replaceable(path: Path, folder: bool, ours: Callable[[Path], bool] | None, overwrite: bool) -> None:
    if not path.exists():
        return
    if not folder:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give the name of a file to write")
        if not overwrite:
            raise OutputError(f"{path} is there already; name a new file, or say --overwrite")
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file; give the name of a folder to write")
    if not overwrite and any(path.iterdir()) and (ours is None or not ours(path)):
        raise OutputError(
            f"{path} is a folder with other things in it, which would be lost; name a new folder, or say --overwrite"
        )


def make_folder(folder: Path) -> None:
    """Make a folder and see that it can be written to, before anything is computed for it.

    Raises:
        OutputError: It cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds, else remove it.

    Who may read it is what the user's umask says, whatever a library makes of it. A link is followed: the file that it
    names is replaced.

    Raises:
        OutputError: Nothing can be written there.
        SpaceError: The disk is full.
    """
    with writing(path):
        target, temporary = _beside(path)
        mode = _touch(temporary)
    try:
        with writing(path):  # which looks at the disk before it is cleared
            yield temporary
            temporary.chmod(mode)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it onto `path` if the block succeeds, else remove it.

    An existing folder at `path` is replaced only once the new one is whole, in one step where the system has one (see
    `slmquant.exchange`). Who may read it and what is in it is what the user's umask says. A link is followed: the
    folder that it names is replaced.

    Raises:
        OutputError: Nothing can be written there.
        SpaceError: The disk is full.
    """
    with writing(path):
        target, temporary = _beside(path)
        temporary.mkdir()
        mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        with writing(path):  # which looks at the disk before it is cleared
            yield temporary
            _open_to_others(temporary, mode)
            put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Where `path` really lies, and a name beside it for what is not whole yet; old ones of its kind are removed."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    name = target.name.encode()[:80].decode(errors="ignore")  # a name takes 255 bytes
    put_back(target, f".{glob.escape(name)}.{_MARK}-*")
    remove_leftovers(target.parent, f".{glob.escape(name)}.{_MARK}-*")
    return target, target.parent / f".{name}.{_MARK}-{secrets.token_hex(6)}"


def _touch(path: Path) -> int:
    """Make an empty file; the permissions that it gets are those of the user's umask."""
    with path.open("xb") as file:
        return stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def _open_to_others(folder: Path, mode: int) -> None:
    """Give what is in a folder the permissions that the folder itself got."""
    for entry in folder.rglob("*"):
        entry.chmod(mode if entry.is_dir() else mode & 0o666)
