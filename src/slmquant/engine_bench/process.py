"""An engine in a process of its own, from the side of who asks."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, TypeVar, cast

from slmquant.engine_bench.requests import Request
from slmquant.machine.process import Failure

T = TypeVar("T")

_LAST_LINES = 5
_LAST_CHARACTERS = 600
_FAREWELL_S = 5.0


@dataclass(frozen=True)
class _Ended:
    """The process will answer no more."""


def _scratch_file() -> IO[bytes]:
    """Where an engine's words are kept; nowhere, if there is no folder or no space for them."""
    try:
        return tempfile.TemporaryFile()
    except OSError:  # an engine that needs no scratch runs without
        return Path(os.devnull).open("w+b")


class EngineProcess:
    """One process for one engine; a context manager, which ends it.

    Between two requests it is stopped where the system can do that (Linux): an engine whose threads go on spinning
    after its answer takes nothing from the one that is measured next to it.

    Args:
        threads: How many threads libraries that go by their environment (OpenMP, MKL, ...) may start.
        stops: Whether it is stopped between requests.
    """

    def __init__(self, threads: int, stops: bool = True) -> None:
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
        )
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, request: Request[T], timeout_s: float) -> T | Failure:
        """The answer, or a `Failure` where the request raised, the process died, or it took longer than `timeout_s`.

        After a process has died or was too slow, it is gone, and so is every answer after that.
        """
        self._signal("SIGCONT")
        try:
            stdin = cast(BinaryIO, self._child.stdin)
            stdin.write(pickle.dumps(request))
            stdin.flush()
        except (OSError, ValueError):  # it is gone, or was closed
            return self._death()
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            return Failure(
                "timeout",
                f"{type(request).__name__} was stopped after {timeout_s:.0f} s; raise --timeout{self._last_words()}",
            )
        if isinstance(answer, _Ended):
            return self._death()
        self._signal("SIGSTOP")
        return cast("T | Failure", answer)

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._child.poll() is None:
            self._child.kill()
        with suppress(subprocess.TimeoutExpired):  # it is killed; gigabytes under swap take a while to go
            self._child.wait(_FAREWELL_S)

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
                except OSError:  # what was never read by the child
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
            return Failure("failed", f"the engine's process does not end, though it was killed{self._last_words()}")
        if code == -getattr(signal, "SIGKILL", 9):
            return Failure(
                "out_of_memory",
                f"the engine was killed by the system, most likely for want of memory{self._last_words()}",
            )
        what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Failure("failed", f"the engine's process ended with {what}{self._last_words()}")

    def _last_words(self) -> str:
        """The last lines that the engine wrote to standard error, as the end of a sentence."""
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        words = " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:]
        return f"; its last lines: {words}" if words else ""
