"""Measures a ladder: writes the files of a size for an engine, times them in turns, and stores a row for each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from slmquant import engines
from slmquant.engine_bench.figures import VERSION, TokenCost
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Settings
from slmquant.engine_bench.reference import NO_SPEED
from slmquant.engine_bench.session import run_engines
from slmquant.engines.common.contract import WithoutSpeed
from slmquant.errors import RefusedError, SlmquantError, UnavailableError
from slmquant.interruption import finished_first, stop_if_interrupted
from slmquant.ladder.cost import POINT
from slmquant.ladder.files import CONTEXT, FilesJob, RandomFile, write_files
from slmquant.ladder.rungs import WIDTHS, Rung
from slmquant.machine.clock import now
from slmquant.machine.environment import environment, usable_cores
from slmquant.machine.process import Failure, run_isolated
from slmquant.progress import Progress
from slmquant.runs.engine_cells import absence
from slmquant.runs.rows import Event
from slmquant.store.random_weights import CACHE_BYTES, RANDOM_WEIGHTS, WEIGHT_BYTES
from slmquant.store.record import REFERENCE_SCHEME, CellSpec, ItemOutcome, Metric, Record
from slmquant.store.sqlite import Store

_NO_REFERENCE = f"{RANDOM_WEIGHTS} have no quality to lose"


@dataclass(frozen=True)
class Climb:
    """What to measure.

    Attributes:
        rungs: The sizes.
        engines: Names of usable engines.
        rounds: Timed passes of each file.
        timeout_s: Time limit of opening a file and of a pass.
    """

    rungs: Sequence[Rung]
    engines: Sequence[str]
    rounds: int = 10
    timeout_s: float = 300.0

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.rungs) * len(self.engines) * len(WIDTHS)


def usable_engines(names: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """The engines that can be timed here.

    Args:
        names: Their names; None for all.

    Returns:
        Their names, and of all others that time quantized weights why they are not usable.

    Raises:
        UnknownNameError: There is no such engine.
        RefusedError: A named one does not compute with quantized weights.
        UnavailableError: A named one is not usable here, or none is; the message says how to install it.
    """
    usable, absent = list[str](), list[str]()
    for name in engines.names() if names is None else dict.fromkeys(map(str.lower, names)):
        reason = _unusable(name)
        if reason is None:
            usable.append(name)
        elif names is not None:
            raise reason
        elif isinstance(reason, UnavailableError):
            absent.append(str(reason))
    if not usable:
        raise UnavailableError(f"no engine is usable here: {'; '.join(absent)}")
    return usable, absent


def _unusable(name: str) -> SlmquantError | None:
    """Why an engine cannot be timed: it is not usable here, or its times say nothing about quantized weights."""
    try:
        engine = engines.load(name)
    except ImportError as error:  # a broken plug-in does not hide the others
        return UnavailableError(f"{name}: its module cannot be imported: {error}")
    if isinstance(engine, WithoutSpeed):
        return RefusedError(f"{name}: {engine.no_speed}")
    if engine.formats[0] == "native":
        return RefusedError(f"{name}: {NO_SPEED}")
    failure = absence(name)
    return None if failure is None else UnavailableError(failure.reason)


def climb(plan: Climb, store: Store, progress: Progress, tell: Callable[[Event], None]) -> list[Record]:
    """Measure every size on every engine; what the store has from this machine is not measured again.

    Args:
        plan: What to measure.
        store: Receives a row for each file.
        progress: Receives progress updates.
        tell: Receives the beginning and the end of cells.
    """
    records: list[Record] = []
    for rung in plan.rungs:
        for engine in plan.engines:
            cells = rung.cells(engine)
            if all(_is_measured(store, spec) for spec in cells.values()):
                for spec in cells.values():
                    records.append(store.get(spec.cell_id))
                    said = f"{spec.label}: {records[-1].status}, done before"
                    tell(Event(said, records[-1], len(records), plan.cells, skipped=True))
                continue
            stop_if_interrupted()
            tell(Event("", None, len(records), plan.cells, begun=tuple(cells.values())))
            started = now()
            for scheme, result in _side_by_side(plan, rung, engine, progress):
                record, items = _row(rung, cells[scheme], result, started)
                with finished_first():
                    store.put(record, items)
                records.append(record)
                tell(Event(f"{record.spec.label}: {record.status}", record, len(records), plan.cells))
    return records


def _is_measured(store: Store, spec: CellSpec) -> bool:
    """Whether the store has a finished row of the cell from a machine like this one."""
    if not store.finished(spec.cell_id):
        return False
    there, here = store.get(spec.cell_id).environment, environment()
    return (there.cpu, there.threads) == (here.cpu, here.threads)


@dataclass(frozen=True)
class _Timed:
    """A file and what was measured of it."""

    file: RandomFile
    result: EngineResult


def _side_by_side(plan: Climb, rung: Rung, engine: str, progress: Progress) -> Iterator[tuple[str, _Timed | Failure]]:
    """Write the files of a size and time them in turns."""
    name = engines.load(engine).formats[0]
    with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        written = run_isolated(write_files, FilesJob(rung, name, Path(scratch)), progress)
        if isinstance(written, Failure):
            written = dict.fromkeys(WIDTHS, written)
        files = {scheme: file for scheme, file in written.items() if isinstance(file, RandomFile)}
        jobs = [
            EngineJob(
                label=rung.cells(engine)[scheme].label,
                engine=engine,
                artifact=file.path,
                cost=TokenCost(file.weight_bytes, rung.linears, rung.embedding),
                context_limit=CONTEXT,
                no_reference=_NO_REFERENCE,
            )
            for scheme, file in files.items()
        ]
        settings = Settings((POINT,), plan.rounds, (usable_cores(),), plan.timeout_s, limit_s=0.3)
        results = run_engines(jobs, settings, 0 if REFERENCE_SCHEME in files else None, progress)
        timed = {scheme: _Timed(files[scheme], result) for scheme, result in zip(files, results, strict=True)}
        for scheme, file in written.items():
            yield scheme, file if isinstance(file, Failure) else timed[scheme]


def _row(
    rung: Rung, spec: CellSpec, result: _Timed | Failure, started: datetime
) -> tuple[Record, tuple[ItemOutcome, ...]]:
    """The row of a cell that ended just now, and its samples."""
    one = result if isinstance(result, Failure) else result.result
    notes = () if isinstance(one, Failure) else one.notes
    record = Record(
        spec=spec,
        status=one.status,
        reason="; ".join(filter(None, (one.reason, *notes))) or None,
        metrics=() if isinstance(result, Failure) else (*result.result.metrics, *_sizes(rung, result.file)),
        model=rung.card,
        environment=environment(),
        started_at=started,
        finished_at=now(),
    )
    return record, () if isinstance(one, Failure) else one.items


def _sizes(rung: Rung, file: RandomFile) -> tuple[Metric, ...]:
    cache = f"keys and values of {POINT.tokens} tokens in 16 bits, by arithmetic"
    return (
        Metric(
            name=WEIGHT_BYTES, value=file.weight_bytes, unit="bytes", higher_is_better=False, version=VERSION,
            protocol="all weights in the file, scales included",
        ),
        Metric(
            name=CACHE_BYTES, value=rung.cache_bytes(POINT.tokens), unit="bytes", higher_is_better=False,
            version=VERSION, protocol=cache,
        ),
    )  # fmt: skip
