"""What a task is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slmquant.progress import Progress, Silent
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec


@dataclass
class EvalContext:
    """A model ready to be asked, and where its task may read and write.

    Attributes:
        model: A causal language model in evaluation mode.
        dtype: What its linears multiply in; the name of cached states carries it.
        tokenizer: Its tokenizer.
        model_sha256: Hash of the *full-precision* model, of its configuration and tokenizer too (`store.inputs`'s
            `model_key`); names the reference's cached states.
        data_dir: A local folder of data (`--data`, `SLMQUANT_DATA`), tried first; None to go without.
        cache_dir: Where reference states are kept.
        is_reference: True while the full-precision model itself is measured: its final hidden states are
            then written to `cache_dir`, for the divergence of every later cell.
        reference_head: `(vocab, hidden)` weight of the full-precision head in the evaluation dtype; None
            where the model's own head is still that one.
        progress: Who is told how far it is.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    tokenizer: PreTrainedTokenizerBase
    model_sha256: str
    cache_dir: Path
    data_dir: Path | None = None
    is_reference: bool = False
    reference_head: Tensor | None = None
    progress: Progress = field(default_factory=Silent)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


@dataclass(frozen=True)
class TaskResult:
    """What came of one task.

    Attributes:
        metrics: Its figures.
        data: What it was asked of.
        items: Outcomes one by one.
        remarks: What a reader of the figures must know, a line each: prompts that were cut, for instance.
    """

    metrics: tuple[Metric, ...]
    data: tuple[DataCard, ...]
    items: tuple[ItemOutcome, ...] = ()
    remarks: tuple[str, ...] = ()


class Task(Protocol):
    """A question put to a model. `tasks.resolve(spec)` finds the one that a `TaskSpec` names."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def description(self) -> str:
        """What it asks, in a line."""
        ...

    @property
    def metrics(self) -> str:
        """The kind of its figures, whose version `slmquant.versions.METRICS` gives."""
        ...

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of all that is asked: the text, or rows, examples and prompts.

        Raises `DataError` where it is absent, `RefusedError` where the task cannot be asked of any model.
        """
        ...

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Measure; raises `DataError` where data is absent, `NumericalError` where a loss is not finite."""
        ...


@runtime_checkable
class ComparingTask(Task, Protocol):
    """A task that compares with what the full-precision model left behind when it was measured."""

    def reference_path(self, context: EvalContext, spec: TaskSpec) -> Path:
        """Where that is kept; raises `DataError` where the data it is named after is absent."""
        ...
