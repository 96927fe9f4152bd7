"""Artifacts on engines: each in a process of its own, measured turn by turn, so that ratios survive a noisy machine.

Three stages. Parity: each artifact is opened alone and held against its reference; one that computes something else
ends here. Speed: for each number of threads all that are left are opened side by side and asked the same short passes
in rounds, in balanced orders (`_engine_turns`); who is not asked is stopped. Limits: what the machine itself can do,
tried once for each number of threads, before the first pass.

Whatever goes wrong with one artifact is its own result; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from slmquant.engine_bench.figures import (
    Conditions,
    Work,
    artifact_metrics,
    loading_metrics,
    noise_metrics,
    paired_ratios,
    parity_metrics,
    speed_metrics,
    speedup_metrics,
    too_few_steps,
)
from slmquant.engine_bench.parity import Windows
from slmquant.engine_bench.process import EngineProcess
from slmquant.engine_bench.requests import Compare, Memory, Open, Opened, Pass, Point, TryMachine, Weigh
from slmquant.engine_bench.turns import fitted, turns
from slmquant.engines.common.contract import OpenOptions
from slmquant.machine.environment import usable_cores
from slmquant.machine.limits import MachineLimits
from slmquant.machine.process import Failure
from slmquant.progress import Progress, Silent
from slmquant.store.record import ItemOutcome, Metric, Status

_DECODED = 64
_ROUNDS = 10


@dataclass(frozen=True)
class Reference:
    """Kept log-probabilities of the torch reference; see `engine_bench.reference`.

    Attributes:
        folder: Where they lie.
        windows: Of which text.
        full: Those of the full-precision model, which say how far off an engine may be; `folder` where the reference
            is that model, None where it is not known.
    """

    folder: Path
    windows: Windows
    full: Path | None = None


@dataclass(frozen=True)
class EngineJob:
    """One artifact on one engine.

    Attributes:
        label: What rows call it.
        engine: Name of the engine.
        artifact: File or folder.
        reference: What it must agree with; None where there is nothing, which the result says; a failure where there
            should be, which is the result's, too.
        work: What each token makes the engine do.
        context_limit: Tokens that the model takes at most; longer points are shortened. None where it does not say.
        no_speed: Why its speed would say nothing; None where it is to be timed.
        no_reference: Why there is nothing that it must agree with, where there is not.
    """

    label: str
    engine: str
    artifact: Path
    reference: Reference | Failure | None = None
    work: Work = field(default_factory=Work)
    context_limit: int | None = None
    no_speed: str | None = None
    no_reference: str = "there is no reference"


@dataclass(frozen=True)
class Settings:
    """What is timed, and how often.

    Attributes:
        points: Contexts and how many tokens are decoded after them.
        rounds: Passes of each point that count; one before them does not.
        threads: Numbers of threads.
        timeout_s: For one request: opening, a comparison, a pass.
        limit_s: How long each limit of the machine is tried.
    """

    points: tuple[Point, ...] = (Point(0, _DECODED), Point(128, 0), Point(512, _DECODED), Point(2048, _DECODED))
    rounds: int = _ROUNDS
    threads: tuple[int, ...] = field(default_factory=lambda: tuple(sorted({1, usable_cores()})))
    timeout_s: float = 300.0
    limit_s: float = 1.0


def cell_settings() -> Settings:
    """What every cell of a bench on engines gets: all cores only, no long context."""
    return Settings(points=Settings().points[:3], threads=(usable_cores(),), limit_s=0.3)


def quick_settings() -> Settings:
    """A minute's look: all cores only, fewer rounds of fewer tokens, no long context."""
    points = (Point(0, 16), Point(128, 0), Point(512, 16))
    return Settings(points=points, rounds=3, threads=(usable_cores(),), limit_s=0.3)


@dataclass(frozen=True)
class EngineResult:
    """What came of a job.

    Attributes:
        job: Which.
        status: As of a cell.
        reason: Why it is not `ok`, in a line.
        version: Of the engine; None where it was never opened.
        metrics: What was measured, until something went wrong.
        items: Raw samples: task `engine@context/threads`, one item for each round. Beside the seconds of its parts
            stand `decode_speedup` and `prefill_speedup`, paired with the baseline's same round, where there is one.
        notes: What is absent, and why.
    """

    job: EngineJob
    status: Status
    reason: str | None
    version: str | None
    metrics: tuple[Metric, ...]
    items: tuple[ItemOutcome, ...]
    notes: tuple[str, ...]


@dataclass
class _Course:
    """A job under way."""

    job: EngineJob
    failure: Failure | None = None
    version: str | None = None
    metrics: list[Metric] = field(default_factory=list)
    items: list[ItemOutcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a remark, once."""
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
    """An opened job and its passes so far, by point; every list is as long as there were rounds."""

    course: _Course
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
        jobs: What to measure.
        settings: How much.
        baseline: Which of the jobs the others are held against, round by round; None where none is.
        progress: Who is told how far it is.

    Returns:
        One result for each job, in their order. Nothing is raised for what goes wrong with a job.
    """
    progress = progress or Silent()
    courses = [_Course(job) for job in jobs]
    progress.start("parity", len(courses))
    for course in courses:
        _prove(course, settings)
        progress.advance()
    for threads in settings.threads:
        if any(course.is_timed for course in courses):
            _time(courses, threads, settings, None if baseline is None else courses[baseline], progress)
    return tuple(course.result for course in courses)


def _prove(course: _Course, settings: Settings) -> None:
    """Open the artifact, and compare it with its reference where there is one."""
    job, threads = course.job, usable_cores()
    course.metrics += artifact_metrics(job.artifact)
    if job.no_speed is not None:
        course.note(job.no_speed)
    if isinstance(job.reference, Failure):
        course.failure = job.reference
        return
    context = 1 if job.reference is None else len(job.reference.windows.tokens[0])
    with EngineProcess(threads) as process:
        opened = process.ask(Open(job.engine, job.artifact, OpenOptions(threads, context)), settings.timeout_s)
        if isinstance(opened, Failure):
            course.failure = opened
            return
        course.version = opened.version
        if job.reference is None:
            course.note(f"parity was not measured: {job.no_reference}")
            return
        compared = process.ask(
            Compare(job.reference.windows, job.reference.folder, job.reference.full), settings.timeout_s
        )
    if isinstance(compared, Failure):
        course.failure = compared
        return
    engine = f"{job.engine} ({opened.version})"
    course.metrics += parity_metrics(compared, engine, job.reference.windows.protocol)
    if (reason := compared.refusal) is not None:
        course.failure = Failure("failed", reason)


def _time(
    courses: Sequence[_Course], threads: int, settings: Settings, baseline: _Course | None, progress: Progress
) -> None:
    """All passes with so many threads."""
    limits = _limits(threads, settings)
    for course in courses:
        if limits is None:
            course.note(f"no limits of the machine with {threads} threads were measured")
    with ExitStack() as stack:
        timed = list(_opened(courses, threads, settings, stack))
        progress.start(f"speed, {threads} threads", settings.rounds + 1)
        for turn, order in enumerate([list(range(len(timed))), *turns(len(timed), settings.rounds)]):
            _round([timed[place] for place in order], settings, counts=turn > 0)
            progress.advance()
        memory = {id(each): each.process.ask(Weigh(), settings.timeout_s) for each in timed if each.course.is_timed}
    theirs = next((each for each in timed if each.course is baseline and baseline.is_timed), None)
    for each in timed:
        weighed = memory.get(id(each))
        if isinstance(weighed, Failure):
            each.course.failure = weighed
        elif weighed is not None:
            _conclude(each, weighed, threads, limits, theirs)


def _limits(threads: int, settings: Settings) -> MachineLimits | None:
    with EngineProcess(threads) as process:
        found = process.ask(TryMachine(threads, settings.limit_s), settings.timeout_s)
    return None if isinstance(found, Failure) else found


def _opened(courses: Sequence[_Course], threads: int, settings: Settings, stack: ExitStack) -> Iterator[_Timed]:
    """Every job that is to be timed, opened; one that cannot be is told so."""
    for course in courses:
        if not course.is_timed:
            continue
        job = course.job
        points = fitted(settings.points, job.context_limit)
        if changed := [str(point.context) for point in settings.points if point not in points]:
            course.note(
                f"the model takes {job.context_limit} tokens: in place of a context of {', '.join(changed)} tokens "
                f"the longest is {max(point.context for point in points)}"
            )
        process = stack.enter_context(EngineProcess(threads))
        options = OpenOptions(threads, max(point.tokens for point in points))
        opened = process.ask(Open(job.engine, job.artifact, options), settings.timeout_s)
        if isinstance(opened, Failure):
            course.failure = opened
            continue
        if opened.energy_reason is not None:
            course.note(opened.energy_reason)
        yield _Timed(course, process, opened, {point: [] for point in points})


def _round(order: Sequence[_Timed], settings: Settings, counts: bool) -> None:
    """Every point once for every job, point by point, so that what is compared lies close together in time."""
    for point in dict.fromkeys(point for each in order for point in each.passes):
        for each in order:
            if not each.course.is_timed or point not in each.passes:
                continue
            found = each.process.ask(point, settings.timeout_s)
            if isinstance(found, Failure):
                each.course.failure = found
            elif counts:
                each.passes[point].append(found)


def _conclude(
    timed: _Timed, weighed: Memory, threads: int, limits: MachineLimits | None, baseline: _Timed | None
) -> None:
    """Metrics and raw samples of one job."""
    course, job = timed.course, timed.course.job
    engine = f"{job.engine} ({timed.opened.version})"
    conditions = Conditions(engine, threads, threads == usable_cores(), timed.opened.energy_of)
    course.metrics += loading_metrics([timed.opened], weighed, conditions)
    for point, passes in timed.passes.items():
        course.metrics += speed_metrics(point, passes, conditions, job.work, limits)
        if (reason := too_few_steps(point, passes)) is not None:
            course.note(reason)
        paired: dict[str, list[float]] = {}
        if baseline is not None and baseline is not timed and point in baseline.passes:
            paired = paired_ratios(point, passes, baseline.passes[point])
            course.metrics += speedup_metrics(point, paired, conditions, baseline.course.job.label)
        course.items += _samples(conditions.name("engine", point.context), passes, paired)
    course.metrics += noise_metrics([each for passes in timed.passes.values() for each in passes], conditions)


def _samples(task: str, passes: Sequence[Pass], paired: Mapping[str, Sequence[float]]) -> list[ItemOutcome]:
    """One item for each round: everything that was measured, and nothing for what was not."""
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
    found = {
        "prefill_s": each.prefill_s,
        "decode_s": sum(each.steps_s) or None,
        "prefill_j": each.prefill_j,
        "decode_j": each.decode_j,
        "stolen": None if noise is None else noise.stolen,
        "others": None if noise is None else noise.others,
        **{f"step_{index}_s": seconds for index, seconds in enumerate(each.steps_s)},
    }
    return {name: value for name, value in found.items() if value is not None}
