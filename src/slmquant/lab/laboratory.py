"""Runs a plan: trains what the cache lacks, one process for each model, then quantizes and measures all models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from slmquant import tasks
from slmquant.cache.entries import is_sound, using
from slmquant.cache.leases import Lease
from slmquant.errors import DataError, SlmquantError
from slmquant.lab.plan import LabPlan
from slmquant.lab.texts import TextJob, TrainingText, tokenized
from slmquant.lab.training import TrainingJob, train
from slmquant.machine.process import Failure, run_isolated
from slmquant.model.sources.load import check_device
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.runs.rows import Event
from slmquant.runs.runner import RunResult, run
from slmquant.store.sqlite import Store
from slmquant.tasks.common.text import TextTask


@dataclass(frozen=True)
class Trained:
    """The models of a plan.

    Attributes:
        jobs: Those that are trained, block by block.
        failures: Name of a model that could not be trained → the reason.
        leases: Keep them in the cache.
    """

    jobs: tuple[TrainingJob, ...]
    failures: dict[str, str]
    leases: tuple[Lease, ...]


def train_models(
    plan: LabPlan, places: Places, at_once: int, progress: Progress, say: Callable[[str], None]
) -> Trained:
    """Train the models of a plan that the cache does not have yet.

    Args:
        plan: The plan.
        places: Folders of data and cache.
        at_once: Number of models to train side by side, each on one thread.
        progress: Receives the trained models as steps.
        say: Receives a sentence for each.

    Raises:
        RefusedError: The device is not available.
        DataError: The training text cannot be used.
        SlmquantError: No model could be trained.
    """
    check_device(plan.device)
    texts = {size: _text(plan, size, places) for size in dict.fromkeys(arm.settings.vocabulary for arm in plan.arms())}
    jobs = [TrainingJob(arm, texts[arm.settings.vocabulary], places.cache_dir, plan.device) for arm in plan.arms()]
    lacking = [job for job in jobs if not is_sound(job.entry)]
    if len(lacking) < len(jobs):
        say(f"{len(jobs) - len(lacking)} of {len(jobs)} models were trained before")
    failures = _train_all(lacking, at_once, progress, say)
    trained = tuple(job for job in jobs if job.name not in failures)
    if not trained:
        raise SlmquantError(f"none of {len(jobs)} models could be trained; {jobs[0].name}: {failures[jobs[0].name]}")
    return Trained(trained, failures, tuple(using(job.entry) for job in trained))


def measure_models(
    plan: LabPlan, trained: Trained, store: Store, places: Places, progress: Progress, tell: Callable[[Event], None]
) -> RunResult:
    """Quantize and measure trained models; cells that the store holds are skipped."""
    cells = plan.cells(tuple(job.name for job in trained.jobs))
    return run(cells, store, data_dir=places.data_dir, progress=progress, tell=tell)


def _text(plan: LabPlan, vocabulary: int, places: Places) -> TrainingText:
    judged = [task.corpus for spec in plan.tasks if isinstance(task := tasks.resolve(spec), TextTask)]
    text = run_isolated(tokenized, TextJob(plan.train, tuple(judged), vocabulary, places), Silent())
    if isinstance(text, Failure):
        raise DataError(text.reason)
    return text


def _train_all(
    jobs: Sequence[TrainingJob], at_once: int, progress: Progress, say: Callable[[str], None]
) -> dict[str, str]:
    """Train models side by side; returns the reasons of those that failed."""
    failures: dict[str, str] = {}
    started = time.monotonic()
    progress.start("train models", len(jobs))
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        running: dict[Future[Failure | None], TrainingJob] = {
            pool.submit(run_isolated, train, job, Silent()): job for job in jobs
        }
        try:
            for done, future in enumerate(as_completed(running), 1):
                name, failure = running[future].name, future.result()
                if failure is not None:
                    failures[name] = failure.reason
                left_s = (time.monotonic() - started) / done * (len(jobs) - done)
                how = "trained" if failure is None else f"not trained ({failure.reason}):"
                say(f"{done}/{len(jobs)} {how} {name}, about {left_s / 60:.0f} min of training left")
                progress.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures
