"""Turns errors of other people's code (libraries, files, the operating system) into errors of slmquant.

A library may raise any exception for a damaged file, a full disk or an unknown configuration, and different ones in its
next version. So neither this module nor its callers list exception classes: every exception that leaves a block of
`reading` or `guarded` is one of `slmquant.errors`, with the file, the reason and a remedy. Four kinds pass through
unchanged: slmquant's own errors, interruptions, lack of memory (a cell then ends as `out_of_memory`), and requests to
exit. A full disk always becomes `SpaceError`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from slmquant.errors import ModelError, OutputError, SlmquantError, SpaceError, first_line

__all__ = [
    "guarded",
    "is_memory",
    "is_space",
    "last_line",
    "or_none",
    "printable",
    "reading",
    "reason",
    "save_traceback",
    "size_text",
    "without_folders",
    "writing",
]

T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EIO, errno.EINVAL, errno.EILSEQ),
)
_FULL_SIGNS = (
    "no space left",
    "os error 28",
    "disk quota",
    "os error 122",
    "os error 27",
    " written",  # numpy: 4352 requested and 2752 written
    "disk full",
    "no usable temporary directory",  # Python: TMPDIR, /tmp, /var/tmp and the working folder are not writable
)
_MEMORY_SIGNS = ("allocate memory", "out of memory", "bad_alloc")
_FOLDERS = re.compile(r"(?<![\w/:.~-])(?:~|)/(?:[^\s/'\"()<>]+/)+")
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_LITTLE_BYTES = 1 << 16
"""A disk with less free space counts as full: libraries report a full disk in many different words."""
_LONGEST_REASON = 300
_KEPT_TRACEBACKS = 20


@contextmanager
def reading(
    path: Path,
    what: str,
    remedy: str = "fetch it again",
    error: type[SlmquantError] = ModelError,
) -> Iterator[None]:
    """Turn exceptions raised while reading `path` into `error`, which names the file, the reason and the remedy.

    Args:
        path: The file or folder.
        what: The expected kind of file, with its article: "a GGUF file".
        remedy: Advice for the user.
        error: Class of the error to raise.
    """
    with guarded(lambda why: f"{path} cannot be read as {what} ({why}); {remedy}", error):
        yield


@contextmanager
def guarded(
    message: Callable[[str], str],
    error: type[SlmquantError] = ModelError,
    say: Callable[[BaseException], str] | None = None,
) -> Iterator[None]:
    """Turn exceptions of a library call into `error`, with the text `message(reason)`.

    Args:
        message: Makes the error's text from the reason.
        error: Class of the error to raise.
        say: Takes the reason from an exception; None takes its first line.
    """
    try:
        yield
    except BaseException as raised:
        if isinstance(raised, SlmquantError) or is_memory(raised) or not _is_of_library(raised):
            raise
        if is_space(raised):
            raise SpaceError(f"no space left on a disk ({reason(raised)}); free some") from raised
        raise error(message((say or reason)(raised))) from raised


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk and an unwritable path into slmquant's errors while writing `path`.

    Other exceptions pass through: they concern the data, not the path.

    Raises:
        SpaceError: The disk of `path`, or the disk of temporary files, is full.
        OutputError: The system does not allow `path` to be written.
    """
    try:
        yield
    except SpaceError as raised:
        raise SpaceError(_no_space(path)) from raised
    except SlmquantError:
        raise
    except Exception as raised:
        if is_space(raised) or _is_full(path.parent) or _is_full(_temporary()):
            raise SpaceError(_no_space(path)) from raised
        if isinstance(raised, OSError) and raised.errno in _NOT_WRITABLE:
            raise OutputError(
                f"cannot write {path}: {reason(raised)}; choose another path, or, if it is in the cache, set "
                "SLMQUANT_CACHE to another folder"
            ) from raised
        raise


def or_none(read: Callable[[], T]) -> T | None:
    """Result of `read`, or None if it fails; for optional things such as a cache or a hint."""
    try:
        return read()
    except Exception:  # noqa: BLE001  # see the module's docstring
        return None


def reason(error: BaseException) -> str:
    """First line of an error, or its class name if it has no text; shortened, and without control characters."""
    line = first_line(error)
    text = line or type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif type(error) in (TypeError, AttributeError, IndexError, AssertionError):  # unclear without the class name
        text = f"{type(error).__name__}: {text}" if line else text
    text = printable(text)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def printable(text: str, keep: str = "") -> str:
    """Escape control characters and other unprintable characters of `text`.

    Args:
        text: Untrusted text: a path, a name from a file, output of another program.
        keep: Characters to leave as they are, such as line ends.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )


def last_line(error: BaseException) -> str:
    """Like `reason`, for libraries that print context first and the actual error last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return reason(RuntimeError(lines[-1])) if lines else reason(error)


def size_text(count: int) -> str:
    """Format a number of bytes with three digits: `0 bytes`, `1.5 MB`, `271 MB`."""
    rounded = float(f"{count:.3g}")
    unit = next((power for power in reversed(range(len(_UNITS))) if rounded >= 1000**power), 0)
    return f"{rounded / 1000**unit:.3g} {_UNITS[unit] if count != 1 else 'byte'}"


def without_folders(text: str, folders: Iterable[Path] = ()) -> str:
    """Cut every absolute path in `text` down to its last part, to hide folders of this machine.

    Args:
        text: Text to be published.
        folders: Known folders; their names may contain any characters. Other paths are recognised by their form, which
            ends at a space.
    """
    for folder in sorted(map(str, folders), key=len, reverse=True):
        if folder.count("/") > 1:  # else it is not specific to this machine
            text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", text.rstrip("/") if text.startswith(("/", "~/")) else text)


def is_space(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that a disk is full."""
    return any(
        isinstance(one, SpaceError)
        or (isinstance(one, OSError) and one.errno in _FULL)
        or any(sign in str(one).lower() for sign in _FULL_SIGNS)
        for one in _chain(error)
    )


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _MEMORY_SIGNS)


def save_traceback(error: BaseException, folder: Path) -> Path | None:
    """Write the traceback of an unexpected error into `folder`, or else into the folder of temporary files.

    Returns:
        The file, or None if neither folder can be written.
    """
    text = "".join(traceback.format_exception(error))
    name = f"slmquant-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for place in (folder, _temporary()):
        if place is None:
            continue
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8", errors="replace")
            older = sorted(place.glob("slmquant-error-*.txt"))[:-_KEPT_TRACEBACKS]
            for file in older:
                file.unlink(missing_ok=True)
        except OSError:
            continue
        return place / name
    return None


def _is_of_library(error: BaseException) -> bool:
    """False for interruptions and exits. A panic of a Rust library counts although it is not an `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _temporary() -> Path | None:
    """Folder of temporary files; None if `tempfile` finds no writable one."""
    return or_none(lambda: Path(tempfile.gettempdir()))


def _is_full(folder: Path | None) -> bool:
    return folder is not None and folder.is_dir() and shutil.disk_usage(folder).free < _LITTLE_BYTES


def _no_space(path: Path) -> str:
    temporary = _temporary()
    free = shutil.disk_usage(path.parent).free
    where = f"{size_text(free)} free in {path.parent}"
    if _is_full(temporary) and not _is_full(path.parent):
        return f"no space for temporary files in {temporary} to write {path}; free some, or point TMPDIR elsewhere"
    return f"no space to write {path} ({where}); free some, or point it or SLMQUANT_CACHE at another disk"
