"""The kinds of faults of a campaign.

Each disturbs a sweep once and says what it did; None if there was nothing to disturb any more, or not yet.
"""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path

import psutil

from slmquant.machine import clock
from tests.faults.bench import Bench, Command

_JUMPS_S = (0, 3600, -3600, 400 * 86400, -400 * 86400)


def _at_random(
    bench: Bench, draw: random.Random, act: Callable[[Command], bool], prepare: Callable[[], object] | None = None
) -> str | None:
    """Start the sweep and do something to it at a random moment; None if it had ended before."""
    command = bench.start(prepare)
    moment = draw.uniform(0, bench.duration_s)
    struck = not command.ends_within(moment) and act(command)
    command.ended()
    return f"after {moment:.1f} s" if struck else None


def _workers(command: Command) -> list[psutil.Process]:
    """The processes of cells: children of the fork server."""
    try:
        return [child for helper in psutil.Process(command.pid).children() for child in helper.children()]
    except psutil.NoSuchProcess:
        return []


def _next_worker(act: Callable[[psutil.Process], object], command: Command) -> bool:
    """Do something to the next worker that is seen; whether there was one."""
    while not command.ends_within(0.02):
        for worker in _workers(command):
            try:
                act(worker)
            except psutil.NoSuchProcess:
                continue
            return True
    return False


def _kill(command: Command) -> bool:
    return command.send(signal.SIGKILL)


def driver_killed(bench: Bench, draw: random.Random) -> str | None:
    """`kill -9` of the command."""
    return _at_random(bench, draw, _kill)


def worker_killed(bench: Bench, draw: random.Random) -> str | None:
    """`kill -9` of a cell's process."""
    return _at_random(bench, draw, partial(_next_worker, psutil.Process.kill))


def interrupted(bench: Bench, draw: random.Random) -> str | None:
    """Ctrl-C or SIGTERM."""
    number = draw.choice((signal.SIGINT, signal.SIGTERM))
    moment = _at_random(bench, draw, lambda command: command.send(number))
    return moment and f"{number.name} {moment}"


def disk_full(bench: Bench, draw: random.Random) -> str | None:
    """No file may grow beyond a size; the system's error is treated as a full disk."""
    most = int(10 ** draw.uniform(3.5, 5.2))
    code, _ = bench.run(partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most)))
    return f"{most} bytes, exit code {code}" if code else None


def out_of_memory(bench: Bench, draw: random.Random) -> str | None:
    """A cell's process may not allocate any more."""

    def starve(worker: psutil.Process) -> None:
        most = worker.memory_info().data + draw.randrange(20_000_000)
        worker.rlimit(psutil.RLIMIT_DATA, (most, most))

    return _at_random(bench, draw, partial(_next_worker, starve))


def cache_damaged(bench: Bench, draw: random.Random) -> str | None:
    """A file of the cache is cut or has a flipped bit after the sweep was killed."""
    moment = driver_killed(bench, draw)
    files = _files(bench.cache, "**/*")
    return f"{moment}; {damage(draw.choice(files), draw)}" if moment and files else None


def store_damaged(bench: Bench, draw: random.Random) -> str | None:
    """The store is cut or has a flipped bit after the sweep was killed, or had ended."""
    moment: str | None = "the end"
    if draw.random() < 0.5:
        moment = driver_killed(bench, draw)
    else:
        bench.run()
    files = _files(bench.scratch, "s.sqlite*")
    if not moment or not files:
        return None
    bench.save()
    return f"{moment}; {damage(draw.choice(files), draw)}"


def two_drivers(bench: Bench, draw: random.Random) -> str | None:
    """The same command is started again while it runs."""
    codes: list[int] = []

    def run_another(command: Command) -> bool:
        codes.append(bench.run()[0])
        return True

    moment = _at_random(bench, draw, run_another)
    return moment and f"{moment}, exit code {codes[0]}"


def clock_jumps(bench: Bench, draw: random.Random) -> str | None:
    """Every reading of the clock jumps by an hour or a year; the command is killed at a random moment."""
    return _at_random(bench, draw, _kill, partial(_jump, draw.randrange(10**6)))


def _jump(seed: int) -> None:
    """Let the clocks of this process, and of those forked from it, jump."""
    draw, seconds = random.Random(seed), time.time

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a plain time, as usual
            return datetime.now(tz) + timedelta(seconds=draw.choice(_JUMPS_S))

    setattr(clock, "datetime", Jumping)  # noqa: B010  # its own name for a class of the standard library
    time.time = lambda: seconds() + draw.choice(_JUMPS_S)


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match and are not empty, by name."""
    return sorted(file for file in folder.glob(pattern) if file.is_file() and file.stat().st_size)


def damage(file: Path, draw: random.Random) -> str:
    """Cut a file, or flip one of its bits; says which."""
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.5:
        file.write_bytes(content[:place])
        return f"{file.name} cut to {place} bytes"
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return f"a bit of byte {place} of {file.name}"


KINDS: Mapping[str, Callable[[Bench, random.Random], str | None]] = {
    "driver killed": driver_killed,
    "worker killed": worker_killed,
    "interrupted": interrupted,
    "disk full": disk_full,
    "out of memory": out_of_memory,
    "cache damaged": cache_damaged,
    "store damaged": store_damaged,
    "two drivers": two_drivers,
    "clock jumps": clock_jumps,
}
