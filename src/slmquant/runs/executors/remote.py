"""What a worker of a Ray cluster does: the stages of a run, each in a process of its own within the task."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import ray

from slmquant.cache.entries import lease
from slmquant.calib.cached import CapturedFile, CaptureJob, run_capture
from slmquant.engine_bench.jobs import EngineResult
from slmquant.files import cache_dir
from slmquant.machine.clock import now
from slmquant.machine.environment import environment
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.model.sources.resolve import place_of
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.runs.engine_cells import EngineStage, absence
from slmquant.runs.executors.contract import without_statistics
from slmquant.runs.executors.local import run_whole
from slmquant.runs.executors.parcels import RECEIVED, Files, Parcel, SentFolder, pack, read_files, unpack, write_files
from slmquant.runs.model_snapshot import kept_model
from slmquant.runs.precision import PrecisionDecision, PrecisionJob, decide_precision
from slmquant.runs.reference_states import reference_states
from slmquant.runs.work import CellJob, CellResult
from slmquant.store.record import CellSpec, Environment
from slmquant.tracks.task_checkpoints import TaskCheckpoints

T = TypeVar("T")

_LOG = "log"


@dataclass(frozen=True)
class Sent:
    """What every task of a model needs.

    Attributes:
        source: The model source, as the user gave it.
        model: The model's folder.
        data: Local folder of data; None if there is none.
        threads: Number of threads: the processors that the task was given.
        limits: Limits of a process.
        mixtures: The mixtures from files that its cells have.
    """

    source: str
    model: SentFolder
    data: SentFolder | None
    threads: int
    limits: Isolation
    mixtures: Parcel = field(default_factory=dict)


class Answer(NamedTuple):
    """The end of a cell on a worker, and what its processes printed."""

    result: CellResult | Failure
    started_at: datetime
    environment: Environment
    log: bytes


class EngineAnswer(NamedTuple):
    """The end of all cells on an engine, and what their processes printed."""

    results: tuple[tuple[CellSpec, EngineResult | Failure], ...]
    started_at: datetime
    environment: Environment
    log: bytes


@dataclass(frozen=True)
class _Here:
    """What a task computes with on this machine."""

    source: str
    places: Places

    def told(self, result: T | Failure, asked: str) -> T | Failure:
        """`result`, with the model's name as the user gave it in a failure's reason."""
        if isinstance(result, Failure):
            return replace(result, reason=result.reason.replace(self.source, asked))
        return result


@contextmanager
def _here(sent: Sent) -> Iterator[_Here]:
    """Receive what this machine lacks, and give the task's processes its number of threads."""
    os.environ["OMP_NUM_THREADS"] = str(sent.threads)
    cache = cache_dir()
    folder = sent.model.place(cache, ray.get)
    named = place_of(sent.source)
    source = sent.source if named is not None and named.resolve() == folder else str(folder)
    data = None if sent.data is None else sent.data.place(cache, ray.get)
    unpack(sent.mixtures, cache)
    received = [path.parent for path in (folder, data) if path is not None and path.is_relative_to(cache / RECEIVED)]
    with ExitStack() as leases:
        for entry in received:
            leases.enter_context(lease(entry))
        yield _Here(source, Places(data, cache))


def _environment(job: None, progress: Progress) -> Environment:
    del job, progress
    return environment()


def _environment_here() -> Environment:
    """This machine, as a process of the task sees it; its number of threads differs from task to task."""
    found = run_isolated(_environment, None, Silent())
    return environment() if isinstance(found, Failure) else found


def _printed(isolation: Isolation) -> bytes:
    """What processes printed into their log."""
    return isolation.log.read_bytes() if isolation.log is not None and isolation.log.exists() else b""


def describe_node() -> Environment:
    """The machine and its libraries."""
    return environment()


def decide(sent: Sent, job: PrecisionJob, known: Parcel) -> tuple[PrecisionDecision | Failure, Parcel]:
    """Choose the compute dtype; `known` decisions of earlier runs are kept, and new ones are returned, too."""
    with _here(sent) as here:
        unpack(known, here.places.cache_dir)
        local = replace(job, model=here.source, places=here.places)
        result = here.told(run_isolated(decide_precision, local, Silent()), sent.source)
        return result, pack((here.places.cache_dir / "precision").glob("[!.]*"), here.places.cache_dir)


def capture(sent: Sent, job: CaptureJob) -> tuple[CapturedFile | Failure, Parcel]:
    """Capture statistics; the second result holds them."""
    with _here(sent) as here:
        local = replace(job, model=here.source, places=here.places)
        result = here.told(run_isolated(run_capture, local, Silent(), sent.limits), sent.source)
        return result, {} if isinstance(result, Failure) else pack([result.path], here.places.cache_dir)


def run_cell(
    sent: Sent,
    spec: CellSpec,
    keeps_model: bool,
    captured: CapturedFile | Failure | None,
    statistics: Parcel,
    states: Parcel,
) -> tuple[Answer, Parcel, Files]:
    """Quantize and measure a cell.

    Args:
        sent: What the model's tasks need.
        spec: The cell.
        keeps_model: Whether an engine will run its quantized model.
        captured: The statistics that it needs; None if it needs none.
        statistics: Their files.
        states: States of the reference.

    Returns:
        The end of the cell, the states that it wrote if it is the reference, and its quantized model if that is kept.
    """
    started = now()
    with _here(sent) as here, tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        keep_in = Path(scratch) / spec.cell_id if keeps_model else None
        isolation = replace(sent.limits, log=Path(scratch) / _LOG)
        local = spec.model_copy(update={"model": here.source})
        result: CellResult | Failure
        if isinstance(captured, Failure):
            result = without_statistics(captured)
        else:
            for _ in range(2):  # once more if an entry of the cache was damaged or removed meanwhile
                unpack({**statistics, **states}, here.places.cache_dir)
                given = captured and replace(captured, path=here.places.cache_dir / next(iter(statistics)))
                result = run_whole(CellJob(local, given, here.places, keep_in), Silent(), isolation)
                if not (isinstance(result, Failure) and result.again):
                    break
        if not isinstance(result, Failure):
            TaskCheckpoints.of(local, here.places).forget()
        written = reference_states(local, here.places) if spec.is_reference else ()
        model = read_files(keep_in) if keep_in is not None and keep_in.exists() else {}
        answer = Answer(here.told(result, sent.source), started, _environment_here(), _printed(isolation))
        return answer, pack(written, here.places.cache_dir), model


def run_on_engine(
    sent: Sent, engine: str, specs: Sequence[CellSpec], rounds: int, *quantized: Answer | Files
) -> EngineAnswer:
    """Measure cells on an engine, side by side.

    Args:
        sent: What the model's tasks need.
        engine: Name of the engine.
        specs: The cells, the reference first.
        rounds: Number of timed passes.
        quantized: For each cell its end and its quantized model, one after the other.
    """
    started = now()
    with _here(sent) as here, tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        absent = absence(engine)
        kept: dict[CellSpec, Path | Failure] = {}
        for spec, answer, files in zip(specs, quantized[::2], quantized[1::2], strict=True):
            result = cast(Answer, answer).result
            if absent is None and not isinstance(result, Failure):
                write_files(cast(Files, files), Path(scratch) / spec.cell_id)
                kept[spec.on(engine)] = kept_model(Path(scratch) / spec.cell_id)
            else:
                kept[spec.on(engine)] = absent or cast(Failure, result)
        isolation = replace(sent.limits, log=Path(scratch) / _LOG)
        stage = EngineStage(kept, Path(scratch), here.places, rounds, isolation, Silent())
        results = [(spec, absent) for spec in kept] if absent is not None else list(stage.run(engine))
        return EngineAnswer(tuple(results), started, _environment_here(), _printed(isolation))
