"""Job of a child process for cells that stop early: evaluate the items of one round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from slmquant import tasks
from slmquant.calib.calibration import NoCalibration
from slmquant.errors import RefusedError
from slmquant.machine.environment import usable_cores
from slmquant.machine.phases import Meter
from slmquant.model.computing.modes import MODES, attending_in
from slmquant.model.sources.load import load
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.quantization import quantize_
from slmquant.runs.model_snapshot import load_snapshot
from slmquant.schemes import parse
from slmquant.store.record import CellSpec, Phase, TaskSpec
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.tasks.common.lm_eval.task import LmEvalTask


@dataclass(frozen=True)
class Asked:
    """Items of a task, from `start` to `stop` in its random order, or as many as there are."""

    task: TaskSpec
    start: int
    stop: int


@dataclass(frozen=True)
class RoundJob:
    """Items for one cell to answer; `kept` is its saved model, None for the full-precision model."""

    spec: CellSpec
    kept: Path | None
    asked: tuple[Asked, ...]
    places: Places


@dataclass(frozen=True)
class RoundResult:
    """Answers, one result for each `Asked`, and their cost."""

    results: tuple[TaskResult, ...]
    phase: Phase


def run_round(job: RoundJob, progress: Progress) -> RoundResult:
    """Evaluate the items of a round on a saved model.

    Raises:
        ModelError: The saved model is damaged.
        RefusedError: A task has no items that can be evaluated one by one.
        DataError: A task's data is absent.
        NumericalError: A log-likelihood was not finite.
    """
    torch.set_num_threads(usable_cores())
    torch.manual_seed(job.spec.seed)
    meter = Meter(job.spec.device)
    with meter.phase("evaluate"):
        context = _context(job, progress)
        with attending_in(context.mode.attention):
            results = tuple(_ask(context, asked) for asked in job.asked)
    return RoundResult(results, meter.phases[0])


def _context(job: RoundJob, progress: Progress) -> EvalContext:
    spec = job.spec
    mode = MODES[spec.compute_dtype]
    if job.kept is None:
        loaded = load(spec.model, device=spec.device)
        quantized = quantize_(loaded.model, spec.method, parse(spec.scheme), NoCalibration(), dtype=mode.linears)
        tokenizer = loaded.tokenizer
    else:
        opened = load_snapshot(job.kept, mode.linears, spec.device)
        quantized, tokenizer = opened.quantized, opened.tokenizer
    return EvalContext(
        model=quantized.model.eval(),
        mode=mode,
        tokenizer=tokenizer,
        model_sha256=spec.model_key,
        cache_dir=job.places.cache_dir,
        data_dir=job.places.data_dir,
        is_reference=job.kept is None,
        progress=progress,
    )


def _ask(context: EvalContext, asked: Asked) -> TaskResult:
    task = tasks.resolve(asked.task)
    if not isinstance(task, LmEvalTask):
        raise RefusedError(f"{asked.task.name} is a text without items, so it cannot stop early; measure it whole")
    return task.run_items(context, asked.task, asked.start, asked.stop)
