"""Two folders change places, in one step where the operating system has one.

Linux has `renameat2` with `RENAME_EXCHANGE`, macOS `renamex_np` with `RENAME_SWAP`; some file systems know neither.
There it takes two renames, and a process that is killed between them leaves nothing under the name: the folder that was
there lies beside it, whole, and `put_back` gives it its name again.
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
"""At the end of the name of a folder that waits for the other one to take its place."""


def put_in_place(new: Path, target: Path) -> None:
    """Give the folder `new` the name `target`; a folder that is there already changes places with it.

    Raises:
        OSError: The system does not let them be renamed.
    """
    if not target.exists():
        try:
            new.replace(target)
        except OSError:
            if not target.is_dir():  # else another process has just made it
                raise
        else:
            return
    exchange(new, target)


def exchange(new: Path, old: Path) -> None:
    """Let the folders `new` and `old`, which lie in one folder, change names.

    Raises:
        OSError: The system does not let them be renamed.
    """
    if not _in_one_step(new, old):
        retired = new.with_name(new.name + _RETIRED)
        old.replace(retired)
        new.replace(old)
        retired.replace(new)


def put_back(target: Path, pattern: str) -> None:
    """Give a folder its name `target` again that a process killed within `exchange` left without one.

    Args:
        target: What is missing.
        pattern: Which entries beside it may be what was there.
    """
    if target.exists():
        return
    for retired in target.parent.glob(pattern + _RETIRED):
        with contextlib.suppress(OSError):  # another process was faster
            retired.replace(target)
            return


def _in_one_step(new: Path, old: Path) -> bool:
    """Exchange them in one step; False where the system or the file system has none."""
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
    except (OSError, AttributeError):  # no such library, or one without it
        return False
    return ended == 0
