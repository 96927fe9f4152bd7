"""Wall and processor seconds of a block, with those of all processes that work for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Spent:
    """Seconds that a block took.

    Attributes:
        wall_s: Wall time.
        cpu_s: Processor time of this process, of its children, and of what those started and waited for.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)

    def __truediv__(self, count: float) -> Spent:
        return Spent(self.wall_s / count, self.cpu_s / count)


def spent_until_now() -> Spent:
    """Wall time, and processor time of this process and all that ran for it; only differences mean anything."""
    wall_s, cpu_s = time.perf_counter(), 0.0
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        times = process.cpu_times()
        cpu_s += times.user + times.system + times.children_user + times.children_system
    return Spent(wall_s, cpu_s)


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure a block; the seconds are known at its end."""
    spent, before = Spent(), spent_until_now()
    yield spent
    after = spent_until_now() - before
    spent.wall_s, spent.cpu_s = after.wall_s, after.cpu_s
