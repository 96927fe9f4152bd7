"""The command that a campaign disturbs: a sweep of three cells of a tiny model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_OPTIONS = (
    "--methods", "rtn,gptq", "--schemes", "W4A16g16", "--tasks", "wikitext2:2,arc_easy:3", "--dtype", "float32",
    "--corpus", "wikitext2_train", "--samples", "2", "--seq-len", "32", "-q",
)  # fmt: skip
_MAIN = "from slmquant.cli import main; main()"
_LONGEST_S = 600


class Bench:
    """A sweep with a store and a cache of its own.

    Args:
        folder: Folder with the model and the data.
        scratch: Folder for store, cache and report.
        duration_s: How long an undisturbed run takes, in seconds.
    """

    def __init__(self, folder: Path, scratch: Path, duration_s: float) -> None:
        self.folder, self.scratch, self.duration_s = folder, scratch, duration_s
        self.store, self.cache = scratch / "s.sqlite", scratch / "cache"
        self.backup = scratch / "backup"
        self.runs = 0

    def start(
        self, code: str = _MAIN, environment: dict[str, str] | None = None, limit: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        """Start the command.

        Args:
            code: What its interpreter runs.
            environment: Further variables.
            limit: Called in the new process before it begins.
        """
        self.runs += 1
        words = ["bench", str(self.folder / "model"), "--data", str(self.folder / "data"), *_OPTIONS]
        words += ["--store", str(self.store), "--report", str(self.scratch / "report")]
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env=os.environ | {"SLMQUANT_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"} | (environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limit,
        )

    def run(self, code: str = _MAIN, limit: Callable[[], None] | None = None) -> tuple[int, str]:
        """Run the command; its exit code and what it said."""
        return ended(self.start(code, limit=limit))

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


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code of a command, and what it said."""
    with process:
        said = process.communicate(timeout=_LONGEST_S)[1]
        return process.returncode, said
