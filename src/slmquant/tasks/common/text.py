"""A text as a task, without imports of torch, so that listing tasks is fast; the work is in `texts.perplexity`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.progress import Progress
    from slmquant.tasks.common.contract import EvalContext, ReferenceKey, TaskResult

__all__ = ["TextTask"]


@dataclass(frozen=True)
class TextTask:
    """Perplexity and divergence on a corpus.

    Attributes:
        name: Name of the task, which is its file's name.
        description: A line about what it measures.
        corpus: Name of the corpus in `slmquant.calib.corpora`.
        metrics: The kind of its figures.
    """

    name: str
    description: str
    corpus: str
    metrics: str = "text"

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of the whole text; raises `DataError` if the corpus is not found."""
        from slmquant.calib.corpora import load_corpus

        return load_corpus(self.corpus, data_dir, progress).card.sha256

    def reference_path(self, key: ReferenceKey, spec: TaskSpec) -> Path:
        """Path of the full-precision model's cached states on this text; see `texts.perplexity.reference_path`."""
        from slmquant.tasks.common.texts import perplexity

        return perplexity.reference_path(self.corpus, key, spec)

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Measure `spec.limit` windows, spread over the text; see `texts.perplexity.measure`."""
        from slmquant.tasks.common.texts import perplexity

        return perplexity.measure(self.corpus, context, spec)
