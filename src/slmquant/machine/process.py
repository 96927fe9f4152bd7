"""Run a function in a separate process, isolated in memory and failures.

Children are forked from a server that has imported the heavy libraries and computed nothing yet, so a cell starts in a
fraction of a second. A child that is killed, hangs or exceeds a limit results in a `Failure`. A child and all processes
that it started end with its answer, and when its parent is killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from slmquant.boundary import size_text
from slmquant.errors import CacheError, RefusedError, SlmquantError, first_line
from slmquant.interruption import held_back, stop_if_interrupted
from slmquant.machine import stall
from slmquant.machine.memory_limit import MemoryLimit
from slmquant.machine.process_tree import ProcessTree, kill_children
from slmquant.progress import Progress
from slmquant.store.record import Status

A = TypeVar("A")
T = TypeVar("T")

_PRELOADED = "slmquant.runs.warm"
_POLL_S = 0.2
_FAREWELL_S = 10.0
_MOST_LOG_BYTES = 1 << 20
_STOPPED: tuple[Status, ...] = ("timeout", "out_of_memory")

log = logging.getLogger("slmquant")


@dataclass(frozen=True)
class Failure:
    """Status and reason of failed work, for a row.

    Attributes:
        status: The row's status.
        reason: The row's reason.
        again: Whether it failed for lack of an entry of the cache, so that it succeeds once that is computed again.
    """

    status: Status
    reason: str
    again: bool = False


@dataclass(frozen=True)
class Isolation:
    """What a process may use, and where its output goes.

    Attributes:
        timeout_s: Time limit in seconds; None for no limit.
        memory_bytes: Limit of the memory of the process and of those that it starts; None for no limit.
        log: File that its standard output and error are appended to; None for those of this process. Of a long log
            the end is kept.
    """

    timeout_s: float | None = None
    memory_bytes: int | None = None
    log: Path | None = None


FREE = Isolation()
"""No limits and no log."""


class _PipeProgress:
    """Forwards progress to the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self, phase: str, total: int | None) -> None:
        self._pipe.send(("start", phase, total))

    def advance(self, steps: int = 1) -> None:
        self._pipe.send(("advance", steps))


def run_isolated(
    function: Callable[[A, Progress], T], argument: A, progress: Progress, isolation: Isolation = FREE
) -> T | Failure:
    """Call `function(argument, progress)` in a separate process; argument and result are pickled.

    Returns:
        The function's result, or a `Failure` if it raised, was killed, or exceeded a limit.
    """
    context = _context()
    parent_end, child_end = context.Pipe()
    child = context.Process(  # type: ignore[attr-defined]  # all contexts have it
        target=_child, args=(child_end, dict(os.environ), isolation.log, function, argument), daemon=True
    )
    with _without_main(function):
        child.start()
    child_end.close()
    tree = ProcessTree(child.pid)
    memory = None if isolation.memory_bytes is None else MemoryLimit(child.pid, isolation.memory_bytes)
    try:
        answer: T | Failure = _Listener(parent_end, child, progress, isolation, memory).answer()
        if not (isinstance(answer, Failure) and answer.status in _STOPPED):
            child.join(_FAREWELL_S)  # it has answered; let it clean up
        return answer
    finally:
        parent_end.close()
        tree.kill()
        child.join()
        if memory is not None:
            memory.release()
        if isolation.log is not None:
            shorten(isolation.log)


class _Listener:
    """Receives what a child sends, and stops waiting once it exceeds a limit."""

    def __init__(
        self, pipe: Connection, child: Any, progress: Progress, isolation: Isolation, memory: MemoryLimit | None
    ) -> None:
        self._pipe, self._child, self._progress, self._isolation = pipe, child, progress, isolation
        self._memory = memory
        self._phase = "start"
        self._deadline = None if isolation.timeout_s is None else time.monotonic() + isolation.timeout_s
        self._next_look = time.monotonic()
        self._stall = stall.Stall(child.pid, self._next_look)

    def answer(self) -> Any:  # values from a pipe have no static type
        """The child's answer, or a `Failure`."""
        while True:
            stop_if_interrupted()
            if (failure := self._over_limit()) is not None:
                return failure
            try:
                if not self._pipe.poll(_POLL_S):
                    continue
                kind, *values = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                self._child.join()
                return self._death()
            if kind == "start":
                self._phase = values[0]
                self._progress.start(*values)
            elif kind == "advance":
                self._progress.advance(*values)
            else:
                return self._explained(values[0])

    def _over_limit(self) -> Failure | None:
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            reason = f"stopped after {self._isolation.timeout_s:.0f} s, at {self._phase!r}; raise --timeout"
            return Failure("timeout", f"{reason}, or reduce the work")
        if now < self._next_look:
            return None
        self._next_look = now + _POLL_S
        if self._isolation.log is not None:
            shorten(self._isolation.log)
        if self._memory is not None and self._memory.exceeded():
            return over_memory(self._memory, self._phase)
        if self._stall.lasts(now):
            idle = f"it used no processor time for {stall.IDLE_S:.0f} s, at {self._phase!r}"
            return Failure("timeout", f"stopped, as {idle}; the same command tries it again")
        return None

    def _death(self) -> Failure:
        code = self._child.exitcode
        if self._memory is not None and self._memory.exceeded():
            return over_memory(self._memory, self._phase)
        if code == -getattr(signal, "SIGKILL", 9):  # Windows has none
            return Failure(
                "out_of_memory",
                f"killed by the system at {self._phase!r}, probably out of memory; free some memory, or use a smaller "
                "model",
            )
        what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Failure("failed", f"the cell's process ended with {what} at {self._phase!r} and no message")

    def _explained(self, answer: Any) -> Any:
        """An allocation that failed under a limit failed because of it."""
        if self._memory is None or not isinstance(answer, Failure) or answer.status != "out_of_memory":
            return answer
        return replace(answer, reason=f"{over_memory(self._memory, self._phase).reason} ({answer.reason})")


def over_memory(limit: MemoryLimit, phase: str) -> Failure:
    """The failure of a process that exceeded its memory limit."""
    return Failure(
        "out_of_memory",
        f"exceeded its memory limit of {size_text(limit.most_bytes)} ({limit.means}) at {phase!r}; raise "
        "--memory-limit, or use a smaller model",
    )


def shorten(log: Path) -> None:
    """Cut a log that has become too long down to its second half, while its process goes on writing."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _MOST_LOG_BYTES:
            with log.open("r+b") as file:
                file.seek(-_MOST_LOG_BYTES // 2, os.SEEK_END)
                end = file.read()
                file.truncate(0)
                file.seek(0)
                file.write(b"...\n" + end)


def _context() -> BaseContext:
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_PRELOADED])
        multiprocessing.resource_tracker.ensure_running()  # starting it lets held back signals through
        with held_back():  # inherited: Ctrl-C does not reach a server that is still importing
            multiprocessing.forkserver.ensure_running()
        return context
    return multiprocessing.get_context("spawn")


_MAIN = threading.Lock()


@contextlib.contextmanager
def _without_main(function: Callable[..., object]) -> Iterator[None]:
    """A block in which children start without running this program's script, unless `function` is from there."""
    with _MAIN:
        main = sys.modules["__main__"]
        if function.__module__ != "__main__":
            sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _child(
    pipe: Connection,
    environment: dict[str, str],
    log: Path | None,
    function: Callable[[A, Progress], T],
    argument: A,
) -> None:
    os.environ.clear()  # children get the parent's current environment, not that of the fork server
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    if hasattr(os, "setsid"):
        os.setsid()  # one group with all that it starts
    if log is not None:
        _write_to(log)
    threading.Thread(target=_die_with_parent, args=(pipe,), daemon=True).start()
    answer: T | Failure
    try:
        answer = function(argument, _PipeProgress(pipe))
    except Exception as error:  # noqa: BLE001  # whatever ends a cell becomes a row
        answer = explain(error)
    kill_children()
    pipe.send(("done", answer))


def _write_to(log: Path) -> None:
    """Append standard output and error to a file, and the Python stack of a crash."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:  # the cell itself may not need the disk
        return
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    faulthandler.enable()


def _die_with_parent(pipe: Connection) -> None:
    """Exit when the parent ends, with all that this process started: the parent never sends anything."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        kill_children()
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def explain(error: Exception) -> Failure:
    """Convert an exception to a `Failure`; unexpected ones are also logged with their traceback."""
    if isinstance(error, RefusedError):
        return Failure("refused", str(error))
    if isinstance(error, SlmquantError):
        return Failure("failed", str(error), again=isinstance(error, CacheError))
    first = first_line(error) or "no message"
    if isinstance(error, MemoryError) or "allocate memory" in first or "out of memory" in first.lower():
        return Failure("out_of_memory", first)
    log.error("a cell failed unexpectedly\n%s", "".join(traceback.format_exception(error)))
    sys.stderr.flush()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
    return Failure("failed", f"{type(error).__name__} at {where}: {first}")
