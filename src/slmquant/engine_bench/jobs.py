"""What is measured on an engine: an artifact with its reference, the settings, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slmquant.engine_bench.figures import TokenCost
from slmquant.engine_bench.parity import Windows
from slmquant.engine_bench.requests import Point
from slmquant.machine.environment import usable_cores
from slmquant.machine.process import Failure
from slmquant.store.record import ItemOutcome, Metric, Status

_DECODED = 64
_ROUNDS = 10


@dataclass(frozen=True)
class Reference:
    """Stored log-probabilities of the torch reference; see `engine_bench.reference`.

    Attributes:
        folder: Folder of the log-probabilities.
        windows: Their text.
        full: Folder of the full-precision model's log-probabilities, which set how far off an engine may be; equal to
            `folder` if the reference is that model, None if unknown.
    """

    folder: Path
    windows: Windows
    full: Path | None = None


@dataclass(frozen=True)
class EngineJob:
    """One artifact on one engine.

    Attributes:
        label: Its name in rows.
        engine: Name of the engine.
        artifact: File or folder.
        reference: The reference that it must agree with. None skips parity, with a note. A `Failure` (the reference
            could not be computed) becomes the job's result.
        cost: Work per token.
        context_limit: Maximum context of the model, in tokens; longer points are shortened. None if unknown.
        no_speed: Why timing it would be meaningless; None if it is to be timed.
        no_reference: Why there is no reference, for the note.
    """

    label: str
    engine: str
    artifact: Path
    reference: Reference | Failure | None = None
    cost: TokenCost = field(default_factory=TokenCost)
    context_limit: int | None = None
    no_speed: str | None = None
    no_reference: str = "there is no reference"


@dataclass(frozen=True)
class Settings:
    """What to time, and how often.

    Attributes:
        points: Contexts, and the number of tokens decoded after each.
        rounds: Timed passes of each point, after one warm-up pass.
        threads: Numbers of threads to measure with.
        timeout_s: Time limit of one request: opening, a comparison, a pass.
        limit_s: Measuring time for each limit of the machine.
        memory_bytes: Limit of an engine's memory; None for no limit.
    """

    points: tuple[Point, ...] = (Point(0, _DECODED), Point(128, 0), Point(512, _DECODED), Point(2048, _DECODED))
    rounds: int = _ROUNDS
    threads: tuple[int, ...] = field(default_factory=lambda: tuple(sorted({1, usable_cores()})))
    timeout_s: float = 300.0
    limit_s: float = 1.0
    memory_bytes: int | None = None


def cell_settings() -> Settings:
    """Settings for each cell of `slmquant bench`: all cores only, no long context."""
    return Settings(points=Settings().points[:3], threads=(usable_cores(),), limit_s=0.3)


def quick_settings() -> Settings:
    """Settings for about a minute: all cores only, fewer rounds and tokens, no long context."""
    points = (Point(0, 16), Point(128, 0), Point(512, 16))
    return Settings(points=points, rounds=3, threads=(usable_cores(),), limit_s=0.3)


@dataclass(frozen=True)
class EngineResult:
    """Result of a job.

    Attributes:
        job: The job.
        status: As for a cell of a bench.
        reason: Why the status is not `ok`, in one line; None if it is.
        version: The engine's version; None if the artifact was never opened.
        metrics: All measured metrics, up to a failure.
        items: Raw samples: task `engine@context/threads`, one item per round. Besides times they hold `decode_speedup`
            and `prefill_speedup` over the baseline in the same round, if there is a baseline.
        notes: Missing measurements, with reasons.
    """

    job: EngineJob
    status: Status
    reason: str | None
    version: str | None
    metrics: tuple[Metric, ...]
    items: tuple[ItemOutcome, ...]
    notes: tuple[str, ...]
