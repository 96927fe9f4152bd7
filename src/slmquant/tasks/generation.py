"""Greedy continuations of fixed prompts: measures repetition, and agreement with full precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.progress import Progress
    from slmquant.tasks.common.contract import EvalContext, ReferenceKey, TaskResult


@dataclass(frozen=True)
class GenerationTask:
    """The task `generation`, without imports of torch, so that listing tasks is fast.

    The work is in `common.writing.generation`.
    """

    name: str = "generation"
    description: str = "greedy continuations of 12 fixed prompts: repetition, and agreement with full precision"

    metrics: str = "generation"

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of the prompts."""
        del data_dir, progress
        from slmquant.tasks.common.writing import generation

        return generation.card().sha256

    def reference_path(self, key: ReferenceKey, spec: TaskSpec) -> Path:
        """Path of the full-precision model's cached continuations."""
        from slmquant.tasks.common.writing import generation

        return generation.reference_path(key, spec)

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Continue the first `spec.limit` prompts; see `common.writing.generation.measure`."""
        from slmquant.tasks.common.writing import generation

        return generation.measure(context, spec)


TASK = GenerationTask()
