"""Run a function in a separate process, isolated in memory and failures.

Children are forked from a server that has imported the heavy libraries and computed nothing yet, so a cell starts in a
fraction of a second. A child that is killed, hangs or runs out of memory results in a `Failure`; a child ends when its
parent is killed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from slmquant.errors import CacheError, RefusedError, SlmquantError, first_line
from slmquant.progress import Progress
from slmquant.store.record import Status

A = TypeVar("A")
T = TypeVar("T")

_PRELOADED = "slmquant.runs.work"
_POLL_S = 0.2
_FAREWELL_S = 10.0

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


class _PipeProgress:
    """Forwards progress to the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self, phase: str, total: int | None) -> None:
        self._pipe.send(("start", phase, total))

    def advance(self, steps: int = 1) -> None:
        self._pipe.send(("advance", steps))


def run_isolated(
    function: Callable[[A, Progress], T], argument: A, progress: Progress, timeout_s: float | None = None
) -> T | Failure:
    """Call `function(argument, progress)` in a separate process; argument and result are pickled.

    Returns:
        The function's result, or a `Failure` if it raised, was killed, or took longer than `timeout_s`.
    """
    context = _context()
    parent_end, child_end = context.Pipe()
    child = context.Process(target=_child, args=(child_end, dict(os.environ), function, argument), daemon=True)  # type: ignore[attr-defined]  # all contexts have it
    child.start()
    child_end.close()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        answer: T | Failure = _listen(parent_end, child, progress, deadline, timeout_s)
        if not (isinstance(answer, Failure) and answer.status == "timeout"):
            child.join(_FAREWELL_S)  # it has answered; let it clean up
        return answer
    finally:
        parent_end.close()
        if child.is_alive():
            child.kill()
        child.join()


def _listen(
    pipe: Connection, child: Any, progress: Progress, deadline: float | None, timeout_s: float | None
) -> Any:  # values from a pipe have no static type
    while True:
        if deadline is not None and time.monotonic() > deadline:
            return Failure("timeout", f"stopped after {timeout_s:.0f} s; raise --timeout, or reduce the work")
        try:
            if not pipe.poll(_POLL_S):
                continue
            kind, *values = pipe.recv()
        except (EOFError, ConnectionResetError):
            child.join()
            return _death(child.exitcode)
        if kind == "start":
            progress.start(*values)
        elif kind == "advance":
            progress.advance(*values)
        else:
            return values[0]


def _death(exit_code: int) -> Failure:
    if exit_code == -getattr(signal, "SIGKILL", 9):  # Windows has none
        return Failure(
            "out_of_memory",
            "killed by the system, probably out of memory; free some memory, or use a smaller model",
        )
    what = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    return Failure("failed", f"the cell's process ended with {what} and no message")


def _context() -> BaseContext:
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_PRELOADED])
        return context
    return multiprocessing.get_context("spawn")


def _child(pipe: Connection, environment: dict[str, str], function: Callable[[A, Progress], T], argument: A) -> None:
    os.environ.clear()  # children get the parent's current environment, not that of the fork server
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    threading.Thread(target=_die_with_parent, args=(pipe,), daemon=True).start()
    answer: T | Failure
    try:
        answer = function(argument, _PipeProgress(pipe))
    except Exception as error:  # noqa: BLE001  # whatever ends a cell becomes a row
        answer = explain(error)
    pipe.send(("done", answer))


def _die_with_parent(pipe: Connection) -> None:
    """Exit when the parent ends: it never sends anything, so reading ends only then."""
    try:
        pipe.recv()
    except (EOFError, OSError):
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
