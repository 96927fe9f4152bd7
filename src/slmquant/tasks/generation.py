"""Greedy continuations of fixed prompts: does the model get caught in loops, and when does it leave its original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.progress import Progress
    from slmquant.tasks.common.contract import EvalContext, TaskResult


@dataclass(frozen=True)
class GenerationTask:
    """Light, so that listing tasks needs no torch. The work is in `_generation`."""

    name: str = "generation"
    description: str = "greedy continuations of 12 fixed prompts: repetition, and agreement with full precision"

    metrics: str = "generation"

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of the prompts."""
        del data_dir, progress
        from slmquant.tasks.common.writing import generation

        return generation.card().sha256

    def reference_path(self, context: EvalContext, spec: TaskSpec) -> Path:
        """Where the full-precision model's continuations are kept."""
        from slmquant.tasks.common.writing import generation

        return generation.reference_path(context, spec)

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Continue the first `spec.limit` prompts; see `_generation.measure`."""
        from slmquant.tasks.common.writing import generation

        return generation.measure(context, spec)


TASK = GenerationTask()
