"""Writing so that nothing is ever half-written, and checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from slmquant.errors import OutputError, SourceError

_CHUNK_BYTES = 1 << 22
_LEFTOVER_AGE_S = 24 * 3600


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
        SourceError: It cannot.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SourceError(
            f"{needed_bytes / 1e6:.0f} MB are needed in {folder} and {free / 1e6:.0f} MB are free; "
            "free some, or point SLMQUANT_CACHE at another disk"
        )


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden temporary entries of `folder` that a killed process left there over a day ago."""
    for entry in folder.glob(".*"):
        try:
            if time.time() - entry.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
        except FileNotFoundError:  # its owner has just finished
            continue
        remove(entry)


def remove(path: Path) -> None:
    """Remove a file or a folder, where it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_output(path: Path, folder: bool, ours: Callable[[Path], bool] | None = None, overwrite: bool = False) -> None:
    """Refuse an output that would take the place of something else, before anything is computed for it.

    Args:
        path: Where a file or a folder shall be written.
        folder: Whether it will be a folder.
        ours: Whether a folder that is there already is an earlier output, which may be replaced; None where that
            cannot be told.
        overwrite: Whether a file, or a folder of other things, may be replaced, too.

    Raises:
        OutputError: A file is there already; a folder lies where a file shall be written, or the reverse; or the folder
            holds other things.
    """
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
    with _made_beside(folder / "file"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds, else remove it.

    Raises:
        OutputError: Nothing can be written there.
        SourceError: The disk is full.
    """
    with _made_beside(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it onto `path` if the block succeeds, else remove it.

    An existing folder at `path` is replaced only once the new one is whole.

    Raises:
        OutputError: Nothing can be written there.
        SourceError: The disk is full.
    """
    with _made_beside(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(retired / path.name)
            temporary.replace(path)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _made_beside(path: Path) -> Iterator[None]:
    """Explain why a file or folder cannot be made where `path` shall lie."""
    try:
        yield
    except OSError as error:
        explained = _explained(error, path)
        if explained is error:
            explained = OutputError(f"cannot write in {path.parent}: {error.strerror or error}; name another place")
        raise explained from error


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    free = shutil.disk_usage(path.parent).free
    return SourceError(
        f"no space to write {path} ({free / 1e6:.0f} MB free in {path.parent}); "
        "free some, or point SLMQUANT_CACHE or the output path at another disk"
    )
