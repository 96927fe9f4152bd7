"""Processes that are killed at the steps that they take in the file system."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "ctypes.dlopen")
_LAST = 6
"""So many steps before the end are always tried: what is written takes its place there."""


def killed_at_steps(work: Callable[[], object], folder: Path, count: int | None = None) -> Iterator[int]:
    """Run `work` in a process of its own that kills itself before its first step, then before its second, and so on.

    A step is an event in the file system that Python reports to audit hooks, about a path in `folder`, or the loading
    of the system's own library.

    Args:
        work: What is run, again and again.
        folder: Where its steps are counted.
        count: Only so many steps, drawn with a fixed seed, and the last ones; every step where None.

    Yields:
        First the number of all steps, after a process that came to its end; then the number of each step, once the
        process is dead. A run that takes fewer steps than the first comes to its end, too: leave the folder as it was.

    Raises:
        AssertionError: `work` failed.
    """
    reader, writer = os.pipe()
    assert _ended(work, folder, None, writer) == 0, "it fails without being killed"
    total = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    yield total
    steps = range(total)
    drawn = set(steps if count is None or count >= total else random.Random(0).sample(steps, count))
    for step in sorted(drawn | set(steps[-_LAST:])):
        code = _ended(work, folder, step, None)
        assert code in (0, -signal.SIGKILL), f"it failed, with code {code}, before step {step} of {total}"
        yield step


def _ended(work: Callable[[], object], folder: Path, last: int | None, writer: int | None) -> int:
    """The exit code of a process that does `work`, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        _run(work, folder, last, writer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(work: Callable[[], object], folder: Path, last: int | None, writer: int | None) -> NoReturn:
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _STEPS or (event != "ctypes.dlopen" and str(folder) not in str(arguments)):
            return
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(count)
    try:
        work()
        if writer is not None:
            os.write(writer, str(seen).encode())
        os._exit(0)
    except BaseException:  # noqa: BLE001  # nothing of the test may go on in this process
        os._exit(1)
