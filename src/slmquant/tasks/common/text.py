"""A text as a task: light, so that listing tasks needs no torch. The work is in `_perplexity`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.progress import Progress
    from slmquant.tasks.common.contract import EvalContext, TaskResult

__all__ = ["TextTask"]


@dataclass(frozen=True)
class TextTask:
    """Perplexity and divergence on a corpus.

    Attributes:
        name: Name of the task, which is its file's name.
        description: What it measures, in a line.
        corpus: The corpus, by its name in `slmquant.calib.corpora`.
        metrics: The kind of its figures.
    """

    name: str
    description: str
    corpus: str
    metrics: str = "text"

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of the whole text; raises `DataError` where it is nowhere to be had."""
        from slmquant.calib.corpora import load_corpus

        return load_corpus(self.corpus, data_dir, progress).card.sha256

    def reference_path(self, context: EvalContext, spec: TaskSpec) -> Path:
        """Where the full-precision model's states on this text are kept; see `_perplexity.reference_path`."""
        from slmquant.tasks.common.texts import perplexity

        return perplexity.reference_path(self.corpus, context, spec)

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Measure `spec.limit` windows, spread over the text; see `_perplexity.measure`."""
        from slmquant.tasks.common.texts import perplexity

        return perplexity.measure(self.corpus, context, spec)
