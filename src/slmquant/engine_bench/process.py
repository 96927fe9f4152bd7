"""Client side of an engine's process: start it, send requests, receive answers."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, TypeVar, cast

from slmquant.engine_bench.requests import Request
from slmquant.machine.memory_limit import MemoryLimit
from slmquant.machine.process import Failure, over_memory
from slmquant.machine.process_tree import ProcessTree

T = TypeVar("T")

_LAST_LINES = 5
_LAST_CHARACTERS = 600
_FAREWELL_S = 5.0
_POLL_S = 0.2


@dataclass(frozen=True)
class _Ended:
    """Signals that the process has ended and gives no more answers."""


def _scratch_file() -> IO[bytes]:
    """A temporary file for an engine's standard error; the null device if none can be made."""
    try:
        return tempfile.TemporaryFile()
    except OSError:  # the engine itself may not need the disk
        return Path(os.devnull).open("w+b")


class EngineProcess:
    """One process for one engine; a context manager that ends the process on exit.

    On Linux the process is suspended between requests: an engine whose threads keep spinning after its answer then
    takes no processor time from the engine measured next to it.

    Args:
        threads: Number of threads for libraries that read it from the environment (OpenMP, MKL, ...).
        stops: Whether the process is suspended between requests.
        memory_bytes: Limit of its memory and of that of its children; None for no limit.
    """

    def __init__(self, threads: int, stops: bool = True, memory_bytes: int | None = None) -> None:
        self._stops = stops and sys.platform == "linux"
        self._stderr = _scratch_file()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "slmquant.engine_bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                "GGML_NO_BACKTRACE": "1",  # which would push the reason out of the engine's last lines
            },
            start_new_session=True,  # one group with all that the engine starts, which Ctrl-C does not reach
        )
        self._tree = ProcessTree(self._child.pid)
        self._memory = None if memory_bytes is None else MemoryLimit(self._child.pid, memory_bytes)
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, request: Request[T], timeout_s: float) -> T | Failure:
        """Send a request and wait for its answer.

        Returns:
            The answer; a `Failure` if the request raised, the process died or exceeded its memory limit, or it took
            longer than `timeout_s`. A process that has ended is not restarted: every later request fails, too.
        """
        self._signal("SIGCONT")
        try:
            stdin = cast(BinaryIO, self._child.stdin)
            stdin.write(pickle.dumps(request))
            stdin.flush()
        except (OSError, ValueError):  # the process has ended, or was closed
            return self._death()
        answer = self._wait(timeout_s)
        if answer is None:
            over = self._over_memory(type(request).__name__)
            self.close()
            if over is not None:
                return over
            return Failure(
                "timeout",
                f"{type(request).__name__} was stopped after {timeout_s:.0f} s; raise --timeout{self._last_words()}",
            )
        if isinstance(answer, _Ended):
            return self._over_memory(type(request).__name__) or self._death()
        self._signal("SIGSTOP")
        return cast("T | Failure", answer)

    def _wait(self, timeout_s: float) -> object | None:
        """The next answer; None if there is none in time, or if the process exceeds its memory limit first."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                return self._answers.get(timeout=left if self._memory is None else min(left, _POLL_S))
            except queue.Empty:
                if self._memory is not None and self._memory.exceeded():
                    return None
        return None

    def _over_memory(self, step: str) -> Failure | None:
        if self._memory is None or not self._memory.exceeded():
            return None
        return over_memory(self._memory, step)

    def close(self) -> None:
        """Kill the process and all that it started."""
        self._tree.kill()
        with suppress(subprocess.TimeoutExpired):  # releasing gigabytes of swapped memory takes a while
            self._child.wait(_FAREWELL_S)
        if self._memory is not None:
            self._memory.release()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        for pipe in (self._child.stdin, self._child.stdout, self._stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # unread data in the pipe
                    continue

    def _listen(self) -> None:
        pipe = cast(BinaryIO, self._child.stdout)
        while True:
            try:
                self._answers.put(pickle.load(pipe))  # noqa: S301  # from our own child
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):
                self._answers.put(_Ended())
                return

    def _signal(self, name: str) -> None:
        if self._stops and self._child.poll() is None:
            self._child.send_signal(getattr(signal, name))

    def _death(self) -> Failure:
        self.close()
        code = self._child.returncode
        if code is None:
            return Failure("failed", f"the engine's process was killed but has not ended yet{self._last_words()}")
        if code == -getattr(signal, "SIGKILL", 9):
            return Failure(
                "out_of_memory",
                f"the engine was killed by the system, probably out of memory{self._last_words()}",
            )
        what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Failure("failed", f"the engine's process ended with {what}{self._last_words()}")

    def _last_words(self) -> str:
        """The engine's last lines on standard error, as the end of a sentence."""
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        words = " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:]
        return f"; its last lines: {words}" if words else ""
