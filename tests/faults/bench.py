"""The command that a campaign disturbs: a sweep of two cells of a tiny model."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.faults.drive import PRELOADED, drive

_OPTIONS = (
    "--methods", "gptq", "--schemes", "W4A16g16", "--tasks", "wikitext2:2,arc_easy:3", "--dtype", "float32",
    "--corpus", "wikitext2_train", "--samples", "2", "--seq-len", "32", "-q",
)  # fmt: skip
_LONGEST_S = 900
"""Longer than a cell may hang, see `machine.stall`."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


class Command:
    """A running command, the first of its processes.

    Args:
        process: Its process.
        said: What it says, in a file.
    """

    def __init__(self, process: ForkServerProcess, said: Path) -> None:
        self._process, self._said = process, said
        self.pid = process.pid or 0

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended."""
        self._process.join(max(seconds, 0.001))
        return self._process.exitcode is not None

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; whether it had not ended before."""
        if not self._process.is_alive():
            return False
        os.kill(self.pid, number)
        return True

    def says(self, text: str) -> str:
        """Wait until it has said a text; what it has said by then.

        Raises:
            RuntimeError: It ended without it.
        """
        while text not in (said := self._said.read_text(encoding="utf-8")):
            if self.ends_within(0.02) and text not in self._said.read_text(encoding="utf-8"):
                raise RuntimeError(f"the command never said {text!r}: {said}")
        return said

    def ended(self) -> tuple[int, str]:
        """Wait for its end; its exit code, and what it said."""
        if not self.ends_within(_LONGEST_S):
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"the command did not end within {_LONGEST_S} s:\n{self._said.read_text()}")
        return self._process.exitcode or 0, self._said.read_text(encoding="utf-8")


def as_it_is() -> None:
    """Nothing that changes a command before it begins."""


def start(
    words: Sequence[str], environment: Mapping[str, str], said: Path, prepare: Callable[[], object] | None = as_it_is
) -> Command:
    """Start a command; see `drive`."""
    said.touch()
    process = _context.Process(target=drive, args=(words, environment, said, prepare))
    process.start()
    return Command(process, said)


class Bench:
    """A sweep with a store and a cache of its own.

    Args:
        folder: Folder with the model and the data.
        scratch: Folder for store, cache and report.
        fresh: Whether each command is a new interpreter, not a fork.
        duration_s: How long an undisturbed run takes, in seconds; 0 if that is not known.
    """

    def __init__(self, folder: Path, scratch: Path, fresh: bool = False, duration_s: float = 0) -> None:
        self.folder, self.scratch, self.fresh, self.duration_s = folder, scratch, fresh, duration_s
        self.store, self.cache = scratch / "s.sqlite", scratch / "cache"
        self.backup = scratch / "backup"
        self.runs = 0
        scratch.mkdir()

    def start(self, prepare: Callable[[], object] | None = None) -> Command:
        """Start the command.

        Args:
            prepare: Called in its process before it begins; then it is a fork.
        """
        self.runs += 1
        words = ["bench", str(self.folder / "model"), "--data", str(self.folder / "data"), *_OPTIONS]
        words += ["--store", str(self.store), "--report", str(self.scratch / "report")]
        environment = os.environ | {"SLMQUANT_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        said = self.scratch / f"said-{self.runs}"
        return start(words, environment, said, prepare or (None if self.fresh else as_it_is))

    def run(self, prepare: Callable[[], object] | None = None) -> tuple[int, str]:
        """Run the command; its exit code and what it said."""
        return self.start(prepare).ended()

    def said(self) -> list[str]:
        """What the commands said, in their order."""
        return [(self.scratch / f"said-{run + 1}").read_text(encoding="utf-8") for run in range(self.runs)]

    def save(self) -> None:
        """Copy the store, with its log."""
        self.backup.mkdir()
        for file in self.scratch.glob("s.sqlite*"):
            if file.is_file():
                shutil.copy(file, self.backup)

    def restore(self) -> None:
        """Put the copy of the store in place."""
        for file in self.scratch.glob("s.sqlite*"):
            if file.is_file():
                file.unlink()
        for file in self.backup.iterdir():
            shutil.copy(file, self.scratch)


def timed(bench: Bench) -> float:
    """Run a command that must succeed; how long it takes, in seconds."""
    warm = _context.Process(target=as_it_is)  # the process that commands are forked from imports first
    warm.start()
    warm.join()
    started = time.monotonic()
    code, said = bench.run()
    if code != 0:
        raise RuntimeError(f"an undisturbed run ended with exit code {code}: {said}")
    return time.monotonic() - started
