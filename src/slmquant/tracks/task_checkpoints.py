"""Tasks that a cell answered before it was stopped: kept until its row is stored, so that it goes on with the next.

A task may take half an hour and a cell hours; a killed run should lose neither. What is kept is a task's whole result,
as it would have gone into the row. Cells are deterministic, so a row that is put together from two processes says
what one process would have said.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from pydantic import TypeAdapter

from slmquant import __version__
from slmquant.boundary import or_none
from slmquant.files import atomic_file, remove
from slmquant.store.record import CellSpec, TaskSpec
from slmquant.tasks.common.contract import TaskResult
from slmquant.tasks.common.texts.token_means import METRIC_VERSION

__all__ = ["TaskCheckpoint", "TaskCheckpoints", "versioned"]


@dataclass(frozen=True)
class TaskCheckpoint:
    """One task's result, and what it took.

    Attributes:
        result: Metrics and items.
        seconds: Wall time.
        peak_rss_bytes: Highest resident memory of its process until then.
    """

    result: TaskResult
    seconds: float
    peak_rss_bytes: int


_STORED = TypeAdapter(TaskCheckpoint)


def versioned(spec: CellSpec, *more: str) -> str:
    """A name for what is kept of a cell: another version of slmquant, or of what it computes with, does not find it."""
    of_texts = f"texts {METRIC_VERSION}"
    versions = (__version__, torch.__version__, transformers.__version__, version("lm_eval"), of_texts, *more)
    return f"{spec.cell_id}-{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class TaskCheckpoints:
    """The answered tasks of one cell, a file for each.

    Attributes:
        folder: Where they lie; made when the first is kept.
    """

    folder: Path

    @classmethod
    def of(cls, spec: CellSpec, cache_dir: Path, data_dir: Path | None) -> TaskCheckpoints:
        """Those of a cell whose data is looked for in `data_dir` first."""
        return cls(cache_dir / "answered" / versioned(spec, str(data_dir)))

    def find(self, task: TaskSpec) -> TaskCheckpoint | None:
        """What an earlier process answered; None where there is nothing, or nothing that can be read."""
        return or_none(lambda: _STORED.validate_json(self._path(task).read_bytes()))

    def keep(self, task: TaskSpec, answer: TaskCheckpoint) -> None:
        """Keep a task's answer, whole or not at all.

        Raises:
            SourceError: The disk is full.
        """
        with atomic_file(self._path(task)) as temporary:
            temporary.write_bytes(_STORED.dump_json(answer))

    def forget(self) -> None:
        """Remove all, when the cell's row is stored."""
        remove(self.folder)

    def _path(self, task: TaskSpec) -> Path:
        return self.folder / f"{hashlib.sha256(str(task).encode()).hexdigest()[:16]}.json"
