"""Measure artifacts on engines: one process each, timed in alternating rounds, so that ratios survive a noisy machine.

There are three stages. Parity: each artifact is opened alone and compared with its reference; one that computes another
model fails here. Limits: for each number of threads, the machine's bandwidth and multiplication rate are measured once,
before the first pass. Speed: for each number of threads, the remaining artifacts are opened side by side and run the
same short passes in rounds, in balanced orders (`turns`); processes that wait are suspended.

A failure of one artifact becomes its own result; the others continue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from slmquant.engine_bench.figures import (
    Conditions,
    artifact_metrics,
    loading_metrics,
    noise_metrics,
    paired_ratios,
    parity_metrics,
    speed_metrics,
    speedup_metrics,
    too_few_steps,
)
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Settings
from slmquant.engine_bench.process import EngineProcess
from slmquant.engine_bench.requests import Compare, MeasureLimits, MeasureMemory, Memory, Open, Opened, Pass, Point
from slmquant.engine_bench.turns import fitted, turns
from slmquant.engines.common.contract import OpenOptions
from slmquant.machine.environment import usable_cores
from slmquant.machine.limits import MachineLimits
from slmquant.machine.process import Failure
from slmquant.progress import Progress, Silent
from slmquant.store.record import ItemOutcome, Metric


@dataclass
class _JobProgress:
    """Progress of one job: what was measured so far."""

    job: EngineJob
    failure: Failure | None = None
    version: str | None = None
    metrics: list[Metric] = field(default_factory=list)
    items: list[ItemOutcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def is_timed(self) -> bool:
        return self.failure is None and self.job.no_speed is None

    @property
    def result(self) -> EngineResult:
        return EngineResult(
            job=self.job,
            status="ok" if self.failure is None else self.failure.status,
            reason=None if self.failure is None else self.failure.reason,
            version=self.version,
            metrics=tuple(self.metrics),
            items=tuple(self.items),
            notes=tuple(self.notes),
        )


@dataclass
class _Timed:
    """An opened job and its passes by point, one pass per finished round."""

    state: _JobProgress
    process: EngineProcess
    opened: Opened
    passes: dict[Point, list[Pass]] = field(default_factory=dict)


def run_engines(
    jobs: Sequence[EngineJob],
    settings: Settings,
    baseline: int | None = None,
    progress: Progress | None = None,
) -> tuple[EngineResult, ...]:
    """Measure jobs side by side.

    Args:
        jobs: Jobs to measure.
        settings: What to time.
        baseline: Index of the job that the others are compared with, round by round; None for no comparison.
        progress: Receives progress updates.

    Returns:
        One result per job, in the same order. A failing job is not raised but has a result that says so.
    """
    progress = progress or Silent()
    states = [_JobProgress(job) for job in jobs]
    progress.start("parity", len(states))
    for state in states:
        _check_parity(state, settings)
        progress.advance()
    for threads in settings.threads:
        if any(state.is_timed for state in states):
            _time(states, threads, settings, None if baseline is None else states[baseline], progress)
    return tuple(state.result for state in states)


def _check_parity(state: _JobProgress, settings: Settings) -> None:
    """Open the artifact and compare it with its reference, if it has one."""
    job, threads = state.job, usable_cores()
    state.metrics += artifact_metrics(job.artifact)
    if job.no_speed is not None:
        state.note(job.no_speed)
    if isinstance(job.reference, Failure):
        state.failure = job.reference
        return
    context = 1 if job.reference is None else len(job.reference.windows.tokens[0])
    with EngineProcess(threads, memory_bytes=settings.memory_bytes) as process:
        opened = process.ask(Open(job.engine, job.artifact, OpenOptions(threads, context)), settings.timeout_s)
        if isinstance(opened, Failure):
            state.failure = opened
            return
        state.version = opened.version
        if job.reference is None:
            state.note(f"parity was not measured: {job.no_reference}")
            return
        compared = process.ask(
            Compare(job.reference.windows, job.reference.folder, job.reference.full), settings.timeout_s
        )
    if isinstance(compared, Failure):
        state.failure = compared
        return
    engine = f"{job.engine} ({opened.version})"
    state.metrics += parity_metrics(compared, engine, job.reference.windows.protocol)
    if (reason := compared.refusal) is not None:
        state.failure = Failure("failed", reason)


def _time(
    states: Sequence[_JobProgress], threads: int, settings: Settings, baseline: _JobProgress | None, progress: Progress
) -> None:
    """Run all passes with `threads` threads."""
    limits = _limits(threads, settings)
    for state in states:
        if limits is None:
            state.note(f"the machine's limits with {threads} threads could not be measured")
    with ExitStack() as stack:
        timed = list(_opened(states, threads, settings, stack))
        progress.start(f"speed, {threads} threads", settings.rounds + 1)
        for turn, order in enumerate([list(range(len(timed))), *turns(len(timed), settings.rounds)]):
            _round([timed[place] for place in order], settings, counts=turn > 0)
            progress.advance()
        answers = {id(job): job.process.ask(MeasureMemory(), settings.timeout_s) for job in timed if job.state.is_timed}
    timed_baseline = next((job for job in timed if job.state is baseline and baseline.is_timed), None)
    for job in timed:
        memory = answers.get(id(job))
        if isinstance(memory, Failure):
            job.state.failure = memory
        elif memory is not None:
            _conclude(job, memory, threads, limits, timed_baseline)


def _limits(threads: int, settings: Settings) -> MachineLimits | None:
    with EngineProcess(threads) as process:
        limits = process.ask(MeasureLimits(threads, settings.limit_s), settings.timeout_s)
    return None if isinstance(limits, Failure) else limits


def _opened(states: Sequence[_JobProgress], threads: int, settings: Settings, stack: ExitStack) -> Iterator[_Timed]:
    """Open each job to be timed; record a failure for those that cannot be opened."""
    for state in states:
        if not state.is_timed:
            continue
        job = state.job
        points = fitted(settings.points, job.context_limit)
        if changed := [str(point.context) for point in settings.points if point not in points]:
            state.note(
                f"the model takes at most {job.context_limit} tokens: contexts of {', '.join(changed)} tokens were "
                f"shortened, the longest is {max(point.context for point in points)}"
            )
        process = stack.enter_context(EngineProcess(threads, memory_bytes=settings.memory_bytes))
        options = OpenOptions(threads, max(point.tokens for point in points))
        opened = process.ask(Open(job.engine, job.artifact, options), settings.timeout_s)
        if isinstance(opened, Failure):
            state.failure = opened
            continue
        if opened.energy_reason is not None:
            state.note(opened.energy_reason)
        yield _Timed(state, process, opened, {point: [] for point in points})


def _round(order: Sequence[_Timed], settings: Settings, counts: bool) -> None:
    """Run every point once for every job, point by point, so that compared passes are close in time."""
    for point in dict.fromkeys(point for job in order for point in job.passes):
        for job in order:
            if not job.state.is_timed or point not in job.passes:
                continue
            measured = job.process.ask(point, settings.timeout_s)
            if isinstance(measured, Failure):
                job.state.failure = measured
            elif counts:
                job.passes[point].append(measured)


def _conclude(
    timed: _Timed, memory: Memory, threads: int, limits: MachineLimits | None, baseline: _Timed | None
) -> None:
    """Compute the metrics and raw samples of one job."""
    state, job = timed.state, timed.state.job
    engine = f"{job.engine} ({timed.opened.version})"
    conditions = Conditions(engine, threads, threads == usable_cores(), timed.opened.energy_of)
    state.metrics += loading_metrics([timed.opened], memory, conditions)
    for point, passes in timed.passes.items():
        state.metrics += speed_metrics(point, passes, conditions, job.cost, limits)
        if (reason := too_few_steps(point, passes)) is not None:
            state.note(reason)
        paired: dict[str, list[float]] = {}
        if baseline is not None and baseline is not timed and point in baseline.passes:
            paired = paired_ratios(point, passes, baseline.passes[point])
            state.metrics += speedup_metrics(point, paired, conditions, baseline.state.job.label)
        state.items += _samples(conditions.name("engine", point.context), passes, paired)
    state.metrics += noise_metrics([each for passes in timed.passes.values() for each in passes], conditions)


def _samples(task: str, passes: Sequence[Pass], paired: Mapping[str, Sequence[float]]) -> list[ItemOutcome]:
    """One item per round with everything that was measured."""
    return [
        ItemOutcome(
            task=task,
            item=str(turn),
            values=_values(each) | {name: ratios[turn] for name, ratios in paired.items()},
        )
        for turn, each in enumerate(passes)
    ]


def _values(each: Pass) -> dict[str, float]:
    noise = each.noise
    values = {
        "prefill_s": each.prefill_s,
        "decode_s": sum(each.steps_s) or None,
        "prefill_j": each.prefill_j,
        "decode_j": each.decode_j,
        "stolen": None if noise is None else noise.stolen,
        "others": None if noise is None else noise.others,
        **{f"step_{index}_s": seconds for index, seconds in enumerate(each.steps_s)},
    }
    return {name: value for name, value in values.items() if value is not None}
