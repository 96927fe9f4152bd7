"""A process with all processes that it started: their resident memory, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

_LOOK_AGAIN_S = 1.0
"""Looking for new children reads the state of every process of the machine."""


class ProcessTree:
    """A process and all processes that it started.

    Args:
        pid: Number of the process.
    """

    def __init__(self, pid: int) -> None:
        self._root = pid
        self._known: list[psutil.Process] = []
        self._looked_s = float("-inf")

    def rss_bytes(self) -> int:
        """Resident memory of all of them; pages that several of them share count several times."""
        if time.monotonic() - self._looked_s > _LOOK_AGAIN_S:
            self._known = members(self._root)
            self._looked_s = time.monotonic()
        return sum(map(_rss_bytes, self._known))

    def kill(self) -> None:
        """Kill all of them, including those that are left of the process's group after its own end."""
        kill_all(members(self._root))
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
                os.killpg(self._root, signal.SIGKILL)


def members(pid: int) -> list[psutil.Process]:
    """A process, and the processes that it started; none once it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: list[psutil.Process]) -> None:
    """Kill processes, some of which may have ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def kill_children() -> None:
    """Kill all processes that this one started."""
    kill_all(members(os.getpid())[1:])


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
