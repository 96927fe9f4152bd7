"""Jobs for child processes: capture statistics, run one cell.

Each function takes one frozen argument and a progress listener, and returns plain data, so that it can run in this
process or in a child process.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from slmquant import methods, tasks
from slmquant.artifact import Artifact
from slmquant.calib import cache
from slmquant.calib.capture import capture
from slmquant.calib.corpora import Corpus, load_corpus
from slmquant.calib.statistics import Statistic, Statistics
from slmquant.calib.windows import calibration_windows
from slmquant.engine_bench.figures import size_metrics
from slmquant.errors import DataError
from slmquant.machine.environment import usable_cores
from slmquant.model.compatibility.context import fitting
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import Relations, discover
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import LoadedModel, load, unmap_
from slmquant.progress import Progress
from slmquant.quantization import quantize_
from slmquant.runs.inputs import check_calibration, check_model
from slmquant.runs.model_snapshot import save_snapshot
from slmquant.schemes import parse
from slmquant.store.record import CalibrationSpec, CellSpec, DataCard, ItemOutcome, Metric, ModelCard, Phase
from slmquant.tasks.common.contract import EvalContext
from slmquant.tracks.compression import Evaluation, evaluate
from slmquant.tracks.consumption import Meter, consumption_metrics
from slmquant.tracks.task_checkpoints import TaskCheckpoints


@dataclass(frozen=True)
class CaptureJob:
    """Statistics to capture of one model on one calibration set, for all cells that need exactly these."""

    model: str
    calibration: CalibrationSpec
    wanted: frozenset[Statistic]
    dtype: str
    device: str
    data_dir: Path | None
    cache_dir: Path


@dataclass(frozen=True)
class CapturedFile:
    """Captured statistics on disk, and the data they were captured on."""

    path: Path
    card: DataCard


@dataclass(frozen=True)
class CellJob:
    """One cell to run, with the statistics captured for it.

    With `keep_in`, the quantized model is saved there, for tasks in rounds (`early_stopping.loop`) and for engines.
    """

    spec: CellSpec
    captured: CapturedFile | None
    data_dir: Path | None
    cache_dir: Path
    keep_in: Path | None = None


@dataclass(frozen=True)
class CellResult:
    """Measurements of a cell that ended `ok`."""

    metrics: tuple[Metric, ...]
    phases: tuple[Phase, ...]
    data: tuple[DataCard, ...]
    items: tuple[ItemOutcome, ...]
    model: ModelCard
    notes: tuple[str, ...] = ()


def run_capture(job: CaptureJob, progress: Progress) -> CapturedFile:
    """Capture statistics into the cache, unless they are cached already.

    Raises:
        DataError: The corpus is absent or too short.
        NumericalError: An activation was not finite.
    """
    torch.set_num_threads(usable_cores())
    corpus = load_corpus(job.calibration.corpus, job.data_dir, progress)
    key = cache.CaptureKey(key_of(job.model), corpus.card.sha256, job.calibration, job.dtype, job.wanted)
    path = key.path(job.cache_dir)
    if path.exists():
        return CapturedFile(path, corpus.card)
    loaded = load(job.model, device=job.device)
    windows = _windows(loaded, corpus, job.calibration)
    relations = discover(loaded.model)
    multiply_in_(loaded.model, getattr(torch, job.dtype))
    unmap_(loaded.model)
    meter = Meter()
    with meter.phase("capture"):
        captured = capture(loaded.model, relations, windows, job.wanted, progress)
    cache.save(captured, path, meter.phases[0].model_copy(update={"shared": True}))
    return CapturedFile(path, corpus.card)


def run_cell(job: CellJob, progress: Progress) -> CellResult:
    """Quantize and measure one cell, except for tasks that stop early: those are run in rounds.

    Raises:
        SlmquantError: The model, the method or a task cannot do this; the message goes into the cell's row.
    """
    torch.set_num_threads(usable_cores())
    torch.manual_seed(job.spec.seed)
    meter = Meter()
    dtype: torch.dtype = getattr(torch, job.spec.compute_dtype)
    mapped = not methods.load(job.spec.method).rewrites_weights
    with meter.phase("load"):
        loaded = load(job.spec.model, device=job.spec.device, mapped=mapped)
    check_model(job.spec, loaded)
    calibration = CellCalibration(job.spec.calibration, job.captured, loaded, job.data_dir)
    with meter.phase("quantize"):
        quantized = quantize_(
            loaded.model,
            job.spec.method,
            parse(job.spec.scheme),
            calibration,
            dtype=dtype,
            seed=job.spec.seed,
            budget=job.spec.budget or "fast",
            progress=progress,
        )
    check_calibration(job.spec, calibration.data)
    if calibration.phase is not None:
        meter.phases.insert(1, calibration.phase)
    consumed = [] if job.spec.method == methods.REFERENCE else consumption_metrics(meter.phases, calibration.tokens)
    with meter.phase("evaluate"):
        if mapped and dtype != torch.float32:  # few of the mapped file's weights are still in use
            unmap_(quantized.model)
        context = evaluation_context(
            quantized, loaded.tokenizer, job.spec.model, job.spec.model_key, job.cache_dir, job.data_dir, progress
        )
        whole = [task for task in job.spec.tasks if task.until_separated is None]
        evaluation = evaluate(context, whole, TaskCheckpoints.of(job.spec, job.cache_dir, job.data_dir))
    meter.phases[-1] = _add_earlier_process(meter.phases[-1], evaluation)
    if job.keep_in is not None:
        save_snapshot(Artifact(quantized, loaded.tokenizer, job.spec.model, loaded.sha256), job.keep_in)
    return CellResult(
        metrics=(
            *evaluation.metrics,
            *size_metrics(quantized.size, quantized.kv_bits),
            *consumed,
            _evaluate_seconds(meter),
        ),
        phases=tuple(meter.phases),
        data=(*evaluation.data, *calibration.data),
        items=evaluation.items,
        model=loaded.card,
        notes=(*loaded.remarks, *calibration.remarks, *quantized.notes, *_remarks(evaluation)),
    )


def has_reference_states(job: CellJob, progress: Progress) -> bool:
    """Whether the cache holds all full-precision references for the tasks of `job`."""
    loaded = load(job.spec.model, device=job.spec.device)
    context = EvalContext(
        model=loaded.model,
        dtype=getattr(torch, job.spec.compute_dtype),
        tokenizer=loaded.tokenizer,
        model_sha256=job.spec.model_key,
        cache_dir=job.cache_dir,
        data_dir=job.data_dir,
        progress=progress,
    )
    return all(tasks.has_reference(context, spec) for spec in job.spec.tasks)


class CellCalibration:
    """The calibration of one cell: windows, and statistics shared with other cells, each loaded when needed.

    Args:
        spec: Which windows of which text; None if the cell uses no data.
        captured: Statistics captured for several cells; None if this one needs none.
        loaded: The model, whose tokenizer and context length the windows follow.
        data_dir: Local folder of data, tried first.
    """

    def __init__(
        self,
        spec: CalibrationSpec | None,
        captured: CapturedFile | None,
        loaded: LoadedModel,
        data_dir: Path | None,
    ) -> None:
        self._spec, self._captured, self._loaded, self._data_dir = spec, captured, loaded, data_dir
        self.phase: Phase | None = None
        self.tokens: int | None = None
        self.data: tuple[DataCard, ...] = ()

    @cached_property
    def windows(self) -> Tensor:
        """Token ids, `(samples, seq)`."""
        if self._spec is None:
            raise DataError("the method reads calibration text, and the cell was given none; name a corpus")
        corpus = load_corpus(self._spec.corpus, self._data_dir)
        windows = _windows(self._loaded, corpus, self._spec)
        self.tokens, self.data = windows.numel(), (corpus.card,)
        return windows

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for the row: windows that are shorter than asked for."""
        if self._spec is None:
            return ()
        length = fitting(self._spec.seq_len, self._loaded.model.config)
        if length == self._spec.seq_len:
            return ()
        return (f"calibrated on windows of {length} tokens instead of {self._spec.seq_len}: the model takes no more",)

    def statistics(self, relations: Relations, wanted: Collection[Statistic]) -> Statistics:
        """The `wanted` statistics; `phase` is set to what capturing them cost."""
        del relations  # the file was captured with the same relations
        if self._captured is None:
            raise DataError(f"the method needs {', '.join(sorted(wanted))}, and the cell was given no statistics")
        captured = cache.load(self._captured.path, wanted)
        self.phase = cache.cost(self._captured.path)
        self.tokens, self.data = captured.tokens, (self._captured.card,)
        return captured.statistics


def _windows(loaded: LoadedModel, corpus: Corpus, spec: CalibrationSpec) -> Tensor:
    """The calibration windows of `spec`, shortened to the model's context if need be."""
    length = fitting(spec.seq_len, loaded.model.config)
    return calibration_windows(loaded.tokenizer, corpus, spec.num_samples, length, spec.seed)


def evaluation_context(
    quantized: QuantizedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    key: str,
    cache_dir: Path,
    data_dir: Path | None,
    progress: Progress,
) -> EvalContext:
    """The context in which tasks measure `quantized`; the references of `source` are cached under `key`."""
    return EvalContext(
        model=quantized.model.eval(),
        dtype=quantized.dtype,
        tokenizer=tokenizer,
        model_sha256=key,
        cache_dir=cache_dir,
        data_dir=data_dir,
        is_reference=quantized.method == methods.REFERENCE,
        reference_head=_reference_head(quantized, source),
        progress=progress,
    )


def _reference_head(quantized: QuantizedModel, source: str) -> Tensor | None:
    """The full-precision head if the scheme quantized it; None if the model still has it."""
    if quantized.scheme.embeddings is None:
        return None
    fresh = load(source, device=quantized.model.device).model
    head: Tensor = fresh.get_output_embeddings().weight
    return head.detach().clone()


def _add_earlier_process(phase: Phase, evaluation: Evaluation) -> Phase:
    """Add to the evaluation phase the cost of an earlier process that was interrupted."""
    peak = max(phase.peak_rss_bytes or 0, evaluation.before_peak_rss_bytes)
    return phase.model_copy(update={"seconds": phase.seconds + evaluation.before_s, "peak_rss_bytes": peak})


def _remarks(evaluation: Evaluation) -> tuple[str, ...]:
    before = ", ".join(map(str, evaluation.before))
    kept = (f"answered before an interruption, and kept: {before}",) if before else ()
    return (*kept, *evaluation.remarks, *evaluation.refused)


def _evaluate_seconds(meter: Meter) -> Metric:
    seconds = next(phase.seconds for phase in meter.phases if phase.name == "evaluate")
    return Metric(name="evaluate_s", value=seconds, unit="s", higher_is_better=None)
