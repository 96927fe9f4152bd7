"""The contract of tasks: their context, their result, and their methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from slmquant.model.computing.modes import ComputeMode
from slmquant.model.running.token_trees import longest_shared
from slmquant.progress import Progress, Silent
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec


@dataclass(frozen=True)
class ReferenceKey:
    """What decides where the full-precision model's cached references lie; the weights are not needed to ask.

    Attributes:
        model_sha256: Hash of the full-precision model, including its configuration and tokenizer.
        mode: What its matrix products are computed in.
        device: Where it runs.
        config: Its configuration, for the length of its context.
        tokenizer: Its tokenizer.
        cache_dir: Folder of the cache.
        data_dir: Local folder of data, tried first; None for none.
        progress: Receives progress updates.
    """

    model_sha256: str
    mode: ComputeMode
    device: torch.device
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    cache_dir: Path
    data_dir: Path | None = None
    progress: Progress = field(default_factory=Silent)

    @property
    def model_name(self) -> str:
        """The model's name, for people."""
        return Path(self.config.name_or_path or "").name or "unnamed"


@dataclass
class EvalContext:
    """A model to evaluate, and the folders that its task may use.

    Attributes:
        model: A causal language model in evaluation mode.
        mode: What its matrix products are computed in; part of the key of cached states.
        tokenizer: Its tokenizer.
        model_sha256: Hash of the *full-precision* model, including its configuration and tokenizer (`store.inputs`'s
            `model_key`); part of the key of cached states.
        data_dir: Local folder of data (`--data`, `SLMQUANT_DATA`), tried first; None for no folder.
        cache_dir: Folder of cached reference states.
        is_reference: True if the model is the full-precision model itself: its final hidden states are then written
            to `cache_dir`, for the divergence of every later cell.
        reference_head: `(vocab, hidden)` weight of the full-precision head in the evaluation dtype; None if the
            model still has that head.
        progress: Receives progress updates.
    """

    model: PreTrainedModel
    mode: ComputeMode
    tokenizer: PreTrainedTokenizerBase
    model_sha256: str
    cache_dir: Path
    data_dir: Path | None = None
    is_reference: bool = False
    reference_head: Tensor | None = None
    progress: Progress = field(default_factory=Silent)

    @property
    def reference_key(self) -> ReferenceKey:
        """Where its full-precision references are cached."""
        return ReferenceKey(
            model_sha256=self.model_sha256,
            mode=self.mode,
            device=self.device,
            config=self.model.config,
            tokenizer=self.tokenizer,
            cache_dir=self.cache_dir,
            data_dir=self.data_dir,
            progress=self.progress,
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @cached_property
    def longest_shared(self) -> int | None:
        """`token_trees.longest_shared` of the model; tested once for all tasks."""
        return longest_shared(self.model)


@dataclass(frozen=True)
class TaskResult:
    """The result of one task.

    Attributes:
        metrics: Its figures.
        data: The data it was measured on.
        items: Outcomes of the single items.
        remarks: Remarks for readers of the figures, one line each, e.g. about prompts that were cut.
    """

    metrics: tuple[Metric, ...]
    data: tuple[DataCard, ...]
    items: tuple[ItemOutcome, ...] = ()
    remarks: tuple[str, ...] = ()


class Task(Protocol):
    """A measurement of a model's quality. `tasks.resolve(spec)` finds the task that a `TaskSpec` names."""

    @property
    def name(self) -> str:
        """Its name on the command line and in plans."""
        ...

    @property
    def description(self) -> str:
        """A line about what it measures."""
        ...

    @property
    def metrics(self) -> str:
        """The kind of its figures: a key of `slmquant.versions.METRICS`, which has its version."""
        ...

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of all its data: the text, or rows, examples and prompts.

        Raises `DataError` if the data is missing, `RefusedError` if slmquant does not run such tasks.
        """
        ...

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Measure the model; raises `DataError` if data is missing, `NumericalError` if a loss is not finite."""
        ...


@runtime_checkable
class ComparingTask(Task, Protocol):
    """A task that compares with cached results of the full-precision model."""

    def reference_path(self, key: ReferenceKey, spec: TaskSpec) -> Path:
        """Path of the cached results; raises `DataError` if data that is part of their key is missing."""
        ...
