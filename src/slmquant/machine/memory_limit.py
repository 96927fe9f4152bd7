"""A memory limit of a process and of the processes that it starts.

Linux enforces it with a control group (cgroup v2) where this user may make one: everything in the group is killed
together. Elsewhere the resident memory is watched, and the size of data is limited to twice the limit (RLIMIT_DATA), so
that a single large allocation fails at once; twice, because stacks of threads and reservations count as data although
they are not resident. The address space is not limited: torch and mapped weights reserve far more than they use.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

from slmquant.machine.process_tree import ProcessTree

CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_FAREWELL_S = 2.0


class MemoryLimit:
    """Limits the memory of a process that has just started.

    Args:
        pid: Number of the process.
        most_bytes: The limit.

    Attributes:
        most_bytes: The limit.
    """

    def __init__(self, pid: int, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._tree = ProcessTree(pid)
        self._group = make_group(pid, most_bytes)
        if self._group is None:
            _limit_data(pid, 2 * most_bytes)

    @property
    def means(self) -> str:
        """How the limit is enforced."""
        return "watched resident memory" if self._group is None else "cgroup"

    def exceeded(self) -> bool:
        """Whether the process exceeds the limit, or was killed because it did."""
        return self._tree.rss_bytes() > self.most_bytes if self._group is None else killed_in(self._group) > 0

    def release(self) -> None:
        """Remove the control group, if there is one, and end whatever is left in it."""
        if self._group is not None:
            remove_group(self._group)


def make_group(pid: int, most_bytes: int, mount: Path = CGROUPS, own: Path = _OWN) -> Path | None:
    """Move a process into a new control group with a memory limit; None if this user cannot make one here.

    Args:
        pid: The process.
        most_bytes: The limit, without swap.
        mount: Where control groups are mounted.
        own: File that names this process's own group.
    """
    for parent in _parents(mount, own):
        group = parent / f"slmquant-{os.getpid()}-{pid}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / "memory.max").write_text(str(most_bytes), encoding="ascii")
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):  # not on every kernel
                if (group / file).exists():
                    (group / file).write_text(value, encoding="ascii")
            (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
        except OSError:
            remove_group(group)
            continue
        return group
    return None


def killed_in(group: Path) -> int:
    """Number of processes that the system killed in a control group for its limit."""
    try:
        lines = (group / "memory.events").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def remove_group(group: Path) -> None:
    """Kill what is left in a control group and remove it."""
    deadline = time.monotonic() + _FAREWELL_S
    with contextlib.suppress(OSError):  # kernels before 5.14 lack the file
        if (group / "cgroup.kill").exists():
            (group / "cgroup.kill").write_text("1", encoding="ascii")
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # its processes are still ending
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        else:
            return


def _parents(mount: Path, own: Path) -> list[Path]:
    """Groups that may have groups with a memory limit: this process's own, and those that it is part of."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
        name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
        if name is None:
            return []
        here = mount / name
        groups = [here, *(parent for parent in here.parents if parent.is_relative_to(mount))]
        return [
            group
            for group in groups
            if "memory" in (group / "cgroup.subtree_control").read_text(encoding="ascii").split()
        ]
    except OSError:
        return []


def _limit_data(pid: int, most_bytes: int) -> None:
    """Limit what a process may allocate from now on; only Linux does that for another process."""
    with contextlib.suppress(AttributeError, OSError, ValueError, psutil.Error):
        process = psutil.Process(pid)
        most = process.memory_info().data + most_bytes
        _, hard = process.rlimit(psutil.RLIMIT_DATA)
        process.rlimit(psutil.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))
