"""Notices processes that have stopped working without ending, such as one that waits for itself after a failed call."""

from __future__ import annotations

import contextlib

import psutil

from slmquant.machine.process_tree import members

IDLE_S = 600.0
"""A process and its children that use no processor time for so long, in seconds, will not go on."""

_LOOKS = 60
"""How often it looks within that time; finding children reads the state of every process of the machine."""


class Stall:
    """The time since a process, or one of its children, last used the processor.

    Args:
        pid: The process.
        now: The current time, in seconds of a clock that stands still while the machine sleeps.
    """

    def __init__(self, pid: int, now: float) -> None:
        self._pid, self._used_s = pid, 0.0
        self._active = self._next_look = now

    def lasts(self, now: float) -> bool:
        """Whether none of them has used processor time for `IDLE_S`, nor was stopped by a signal meanwhile."""
        if now >= self._next_look:
            self._next_look = now + IDLE_S / _LOOKS
            used_s, is_paused = _used(self._pid)
            if used_s != self._used_s or is_paused:
                self._used_s, self._active = used_s, now
        return now - self._active > IDLE_S


def _used(pid: int) -> tuple[float, bool]:
    """Processor time of a process and its children so far, in seconds, and whether one is stopped by a signal."""
    used_s, is_paused = 0.0, False
    for process in members(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used_s += times.user + times.system
            is_paused = is_paused or process.status() == psutil.STATUS_STOPPED
    return used_s, is_paused
