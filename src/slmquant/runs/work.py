"""Jobs for child processes: capture statistics, run one cell.

Each function takes one frozen argument and a progress listener, and returns plain data, so that it can run in this
process or in a child process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from slmquant import methods
from slmquant.artifact import Artifact
from slmquant.calib.cached import CachedCalibration, CapturedFile
from slmquant.calib.corpora import load_corpus
from slmquant.machine.environment import usable_cores
from slmquant.machine.phases import Meter
from slmquant.mixing.choose import Choice
from slmquant.mixing.sensitivity import SensitivityJob
from slmquant.mixing.subject import subject_of
from slmquant.model.computing.modes import MODES, ComputeMode
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.sources.load import LoadedModel, load, unmap_
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.quantization import quantize_
from slmquant.runs.inputs import check_calibration, check_model
from slmquant.runs.model_snapshot import save_snapshot
from slmquant.schemes import parse
from slmquant.schemes.kept_mixtures import keep_mixture
from slmquant.store.record import CellSpec, DataCard, ItemOutcome, Metric, ModelCard, Phase
from slmquant.tasks.common.contract import EvalContext
from slmquant.tracks.compression import Evaluation, evaluate
from slmquant.tracks.consumption import consumption_metrics
from slmquant.tracks.size import size_metrics
from slmquant.tracks.task_checkpoints import TaskCheckpoints


@dataclass(frozen=True)
class CellJob:
    """One cell to run, with the statistics captured for it.

    With `keep_in`, the quantized model is saved there, for tasks in rounds (`early_stopping.loop`) and for engines.
    """

    spec: CellSpec
    captured: CapturedFile | None
    places: Places
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


def run_cell(job: CellJob, progress: Progress) -> CellResult:
    """Quantize and measure one cell, except for tasks that stop early: those are run in rounds.

    Raises:
        SlmquantError: The model, the method or a task cannot do this; the message goes into the cell's row.
    """
    torch.set_num_threads(usable_cores())
    torch.manual_seed(job.spec.seed)
    meter = Meter(job.spec.device)
    mode = MODES[job.spec.compute_dtype]
    mapped = not methods.load(job.spec.method).rewrites_weights
    progress.start("load", None)
    with meter.phase("load"):
        loaded = load(job.spec.model, device=job.spec.device, mapped=mapped)
    check_model(job.spec, loaded)
    calibration = CachedCalibration(job.spec.calibration, job.captured, loaded, job.places.data_dir)
    numbers, decided = parse(job.spec.scheme), tuple[str, ...]()
    if numbers.max_bytes is not None:
        with meter.phase("choose"):
            choice = _choose(job, loaded, numbers.max_bytes, progress)
        numbers, decided = choice.scheme, (f"types: {choice.scheme}", *choice.notes)
    progress.start("quantize", None)
    with meter.phase("quantize"):
        quantized = quantize_(
            loaded.model,
            job.spec.method,
            numbers,
            calibration,
            dtype=mode.linears,
            seed=job.spec.seed,
            budget=job.spec.budget or "fast",
            progress=progress,
        )
    bill = calibration.bill(methods.load(job.spec.method).looks_at_data(parse(job.spec.scheme)))
    check_calibration(job.spec, bill.data)
    if bill.phase is not None:
        meter.phases.insert(1, bill.phase)
    consumed = [] if job.spec.method == methods.REFERENCE else consumption_metrics(meter.phases, bill.tokens)
    progress.start("evaluate", None)
    with meter.phase("evaluate"):
        if mapped and mode.linears != torch.float32:  # few of the mapped file's weights are still in use
            unmap_(quantized.model)
        context = evaluation_context(
            quantized, mode, loaded.tokenizer, job.spec.model, job.spec.model_key, job.places, progress
        )
        whole = [task for task in job.spec.tasks if task.until_separated is None]
        evaluation = evaluate(context, whole, TaskCheckpoints.of(job.spec, job.places))
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
        data=(*evaluation.data, *bill.data),
        items=evaluation.items,
        model=loaded.card,
        notes=(*loaded.remarks, *calibration.remarks, *decided, *quantized.notes, *_remarks(evaluation)),
    )


def _choose(job: CellJob, loaded: LoadedModel, max_bytes: int, progress: Progress) -> Choice:
    """Choose types for a file of so many bytes, and keep the mixture under its name."""
    spec, places = job.spec, job.places
    assert spec.calibration is not None  # noqa: S101  # methods that try types read text
    sha256 = load_corpus(spec.calibration.corpus, places.data_dir).card.sha256
    mode = MODES[spec.compute_dtype]
    budget = spec.budget or "fast"
    asked = SensitivityJob(spec.model, spec.model_key, sha256, spec.method, spec.calibration, mode, places, budget)
    choice = subject_of(asked, loaded, progress).chosen(max_bytes)
    keep_mixture(str(choice.scheme), spec.model, choice.types)
    return choice


def evaluation_context(
    quantized: QuantizedModel,
    mode: ComputeMode,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    key: str,
    places: Places,
    progress: Progress,
) -> EvalContext:
    """The context in which tasks measure `quantized`; the references of `source` are cached under `key`."""
    return EvalContext(
        model=quantized.model.eval(),
        mode=mode,
        tokenizer=tokenizer,
        model_sha256=key,
        cache_dir=places.cache_dir,
        data_dir=places.data_dir,
        is_reference=quantized.method == methods.REFERENCE,
        reference_head=_reference_head(quantized, source),
        progress=progress,
    )


def _reference_head(quantized: QuantizedModel, source: str) -> Tensor | None:
    """The full-precision head if the scheme quantized it; None if the model still has it."""
    if not quantized.scheme.rounds_embeddings:
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
