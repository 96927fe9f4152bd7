"""The kinds of faults of a campaign; each disturbs a sweep once and says what it did."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from tests.faults.bench import Bench, ended

_CLOCK = """
import random, time
from datetime import datetime, timedelta
draw, real = random.Random({seed}), datetime
class Jumping(datetime):
    @classmethod
    def now(cls, zone=None):
        return real.now(zone) + timedelta(seconds=draw.choice([0, 3600, -3600, 86400 * 400, -86400 * 400]))
import slmquant.machine.clock
slmquant.machine.clock.datetime = Jumping
seconds = time.time
time.time = lambda: seconds() + draw.choice([0, 3600, -3600, 1e7, -1e7])
from slmquant.cli import main
main()
"""


def _at_random(bench: Bench, draw: random.Random, act: Callable[[subprocess.Popen[str]], None]) -> str:
    """Start the sweep and do something to it at a random moment."""
    process = bench.start()
    moment = draw.uniform(0, bench.duration_s)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        act(process)
    ended(process)
    return f"after {moment:.1f} s"


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of cells: children of the fork server."""
    try:
        return [child for helper in psutil.Process(process.pid).children() for child in helper.children()]
    except psutil.NoSuchProcess:
        return []


def _soon(process: subprocess.Popen[str], act: Callable[[psutil.Process], object]) -> None:
    """Do something to the next worker that is seen."""
    while process.poll() is None:
        for worker in _workers(process):
            try:
                act(worker)
            except psutil.NoSuchProcess:
                continue
            return
        time.sleep(0.02)


def driver_killed(bench: Bench, draw: random.Random) -> str:
    """`kill -9` of the command."""
    return _at_random(bench, draw, lambda process: process.kill())


def worker_killed(bench: Bench, draw: random.Random) -> str:
    """`kill -9` of a cell's process."""
    return _at_random(bench, draw, lambda process: _soon(process, lambda worker: worker.kill()))


def interrupted(bench: Bench, draw: random.Random) -> str:
    """Ctrl-C or SIGTERM."""
    number = draw.choice((signal.SIGINT, signal.SIGTERM))
    return f"{number.name} {_at_random(bench, draw, lambda process: process.send_signal(number))}"


def disk_full(bench: Bench, draw: random.Random) -> str:
    """No file may grow beyond a size; the system's error is treated as a full disk."""
    most = int(10 ** draw.uniform(3.5, 5.7))
    code, _ = bench.run(limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    return f"{most} bytes, exit code {code}"


def out_of_memory(bench: Bench, draw: random.Random) -> str:
    """A cell's process may not allocate any more."""

    def starve(worker: psutil.Process) -> None:
        most = worker.memory_info().data + draw.randrange(20_000_000)
        worker.rlimit(psutil.RLIMIT_DATA, (most, most))

    return _at_random(bench, draw, lambda process: _soon(process, starve))


def cache_damaged(bench: Bench, draw: random.Random) -> str:
    """A file of the cache is cut or has a flipped bit after the sweep was killed."""
    moment = driver_killed(bench, draw)
    files = sorted(file for file in bench.cache.rglob("*") if file.is_file() and file.stat().st_size)
    return f"killed {moment}; {damage(draw.choice(files), draw)}" if files else f"killed {moment}; nothing cached"


def store_damaged(bench: Bench, draw: random.Random) -> str:
    """The store is cut or has a flipped bit after the sweep was killed."""
    moment = driver_killed(bench, draw)
    files = sorted(file for file in bench.scratch.glob("s.sqlite*") if file.is_file() and file.stat().st_size)
    if not files:
        return f"killed {moment}; nothing stored"
    bench.save()
    return f"killed {moment}; {damage(draw.choice(files), draw)}"


def two_drivers(bench: Bench, draw: random.Random) -> str:
    """The same command is started again while it runs."""
    second: list[tuple[int, str]] = []
    moment = _at_random(bench, draw, lambda process: second.append(bench.run()))
    return f"{moment}, exit code {[code for code, _ in second]}"


def clock_jumps(bench: Bench, draw: random.Random) -> str:
    """Every reading of the clock jumps by hours or years; the command is killed at a random moment."""
    process = bench.start(_CLOCK.format(seed=draw.randrange(10**6)))
    moment = draw.uniform(0, 2 * bench.duration_s)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
    ended(process)
    return f"killed after {moment:.1f} s"


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


KINDS: Mapping[str, Callable[[Bench, random.Random], str]] = {
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
