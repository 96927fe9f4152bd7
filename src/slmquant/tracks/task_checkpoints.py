"""Checkpoints of finished tasks, so that an interrupted cell resumes with the next task.

A task may take half an hour and a cell hours; a killed run should lose neither. A checkpoint holds a task's complete
result, exactly as it enters the record, and is removed once the record is stored. Cells are deterministic, so a record
assembled from two processes equals that of one process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from pydantic import TypeAdapter

from slmquant._version import __version__
from slmquant.boundary import or_none
from slmquant.cache.entries import discard, get
from slmquant.cache.write import About, put
from slmquant.places import Places
from slmquant.store.record import CellSpec, TaskSpec
from slmquant.tasks.common.contract import TaskResult
from slmquant.tasks.common.texts.token_means import METRIC_VERSION

__all__ = ["TaskCheckpoint", "TaskCheckpoints", "versioned"]


@dataclass(frozen=True)
class TaskCheckpoint:
    """One task's result and its cost.

    Attributes:
        result: Metrics and items.
        seconds: Wall time.
        peak_rss_bytes: Peak resident memory of the process until then.
    """

    result: TaskResult
    seconds: float
    peak_rss_bytes: int


_STORED = TypeAdapter(TaskCheckpoint)


def versioned(spec: CellSpec, *more: str) -> str:
    """Cache name of a cell; it changes with the version of slmquant and of the libraries it computes with."""
    of_texts = f"texts {METRIC_VERSION}"
    versions = (__version__, torch.__version__, transformers.__version__, version("lm_eval"), of_texts, *more)
    return f"{spec.cell_id}-{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class TaskCheckpoints:
    """The checkpoints of one cell, an entry of the cache per task.

    Attributes:
        cell: Label of the cell.
        prefix: Path of its entries, without the task.
    """

    cell: str
    prefix: Path

    @classmethod
    def of(cls, spec: CellSpec, places: Places) -> TaskCheckpoints:
        """The checkpoints of a cell that reads its data and caches its results in `places`."""
        return cls(spec.label, places.cache_dir / "answered" / versioned(spec, str(places.data_dir)))

    def find(self, task: TaskSpec) -> TaskCheckpoint | None:
        """The checkpoint of a task; None if there is none or it was damaged."""
        known = get(self._entry(task))
        return None if known is None else or_none(lambda: _STORED.validate_json(known))

    def keep(self, task: TaskSpec, checkpoint: TaskCheckpoint) -> None:
        """Write the checkpoint of a task atomically.

        Raises:
            SpaceError: The disk is full.
        """
        put(self._entry(task), About(self.cell, f"finished task {task}"), _STORED.dump_json(checkpoint))

    def forget(self) -> None:
        """Remove all checkpoints of the cell, once its record is stored."""
        for entry in self.prefix.parent.glob(f"{self.prefix.name}*"):
            discard(entry)

    def _entry(self, task: TaskSpec) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}-{hashlib.sha256(str(task).encode()).hexdigest()[:16]}")
