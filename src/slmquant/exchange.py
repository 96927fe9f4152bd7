"""Swap two folders, atomically if the operating system supports it.

Linux has `renameat2` with `RENAME_EXCHANGE`, macOS `renamex_np` with `RENAME_SWAP`; some file systems support neither.
There the swap takes several renames, and a process killed between them leaves no folder under the name. The old folder
is then complete under a temporary name next to it, and `put_back` restores its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
_RETIRED = ".retired"
"""Name suffix of the old folder while the new one takes its place."""


def put_in_place(new: Path, target: Path) -> None:
    """Rename the folder `new` to `target`; an existing folder there is swapped with it.

    Raises:
        OSError: The system refuses to rename them.
    """
    if not target.exists():
        try:
            new.replace(target)
        except OSError:
            if not target.is_dir():  # else another process has just created it
                raise
        else:
            return
    exchange(new, target)


def exchange(new: Path, old: Path) -> None:
    """Swap the names of the folders `new` and `old`, which have the same parent.

    Raises:
        OSError: The system refuses to rename them.
    """
    if not _in_one_step(new, old):
        retired = new.with_name(new.name + _RETIRED)
        old.replace(retired)
        new.replace(old)
        retired.replace(new)


def put_back(target: Path, pattern: str) -> None:
    """Restore the folder `target` if a process was killed while swapping it.

    Args:
        target: The folder that may be missing.
        pattern: Glob pattern of the temporary names that it may have.
    """
    if target.exists():
        return
    for retired in target.parent.glob(pattern + _RETIRED):
        with contextlib.suppress(OSError):  # another process was faster
            retired.replace(target)
            return


def _in_one_step(new: Path, old: Path) -> bool:
    """Swap two folders in one system call; False if the system or file system does not support it."""
    first, second = os.fsencode(new), os.fsencode(old)
    calls: dict[str, tuple[str, tuple[object, ...]]] = {
        "linux": ("renameat2", (_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE)),
        "darwin": ("renamex_np", (first, second, _RENAME_SWAP)),
    }
    if sys.platform not in calls:
        return False
    name, arguments = calls[sys.platform]
    try:
        ended: int = getattr(ctypes.CDLL(None), name)(*arguments)
    except (OSError, AttributeError):  # no C library, or one without this function
        return False
    return ended == 0
