"""Runs a plan: the reference first, then cell by cell, each in its own process, each ending as a row.

The store is written after every cell, and a cell's results are saved after every task, so a run that is killed loses
at most the current task; repeating the command skips finished cells. Work that cells share (statistics, the
reference's states) is cached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from slmquant.cache.upkeep import limit_bytes
from slmquant.errors import SlmquantError, UnknownNameError
from slmquant.machine.clock import now
from slmquant.machine.process import Failure
from slmquant.model.sources.load import identify
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.runs.executors.contract import Executor, ModelWork
from slmquant.runs.executors.local import Local
from slmquant.runs.inputs import Contents, Data, DataJob
from slmquant.runs.model_run import ModelRun
from slmquant.runs.plan import Plan
from slmquant.runs.precision import PrecisionJob
from slmquant.runs.rows import Decision, Event, Rows
from slmquant.store.inputs import UNKNOWN, model_key
from slmquant.store.record import Record
from slmquant.store.sqlite import Store

A = TypeVar("A")
T = TypeVar("T")

NO_MODEL = "unavailable"
"""Fingerprint in the rows of a model that is not available or damaged."""


@dataclass(frozen=True)
class RunResult:
    """All cells of a plan, in its order, including those that an earlier run finished."""

    records: tuple[Record, ...]
    skipped: int

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells that ended neither `ok` nor `refused`."""
        return tuple(record for record in self.records if not record.is_finished)


def run(
    plan: Plan,
    store: Store,
    *,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    tell: Callable[[Event], None] | None = None,
    executor: Executor | None = None,
    data: Data | None = None,
) -> RunResult:
    """Run every cell of `plan` that `store` does not hold yet.

    Args:
        plan: What to run.
        store: The store to write rows to.
        data_dir: Local folder of data, tried first.
        progress: Receives progress updates of the current cell.
        tell: Called with every `Event`.
        executor: Computes the cells; None for this machine.
        data: Hashes of the plan's data, if they are known already; None to compute them.

    Raises:
        UnknownNameError: A model source is not known.
        RefusedError: The device is not available, or the executor cannot run such a plan.
        OutputError: `SLMQUANT_CACHE_LIMIT` is not a size.
    """
    progress = progress or Silent()
    executor = executor or Local(progress)
    executor.check(plan)
    limit_bytes()
    places = Places(data_dir)
    total = sum(len(plan.cells(model, "0", "float32")) for model in plan.models) * (1 + len(plan.engines))
    rows = Rows(store, places, tell or _ignore, total)
    bench = _Bench(plan, places, rows, progress, executor, data)
    for model in plan.models:
        bench.run_model(model)
    return RunResult(tuple(rows.records), rows.skipped)


def _ignore(event: Event) -> None:
    """Discard an event."""
    del event


@dataclass(frozen=True)
class _Bench:
    """A plan, and what its models share."""

    plan: Plan
    places: Places
    rows: Rows
    progress: Progress
    executor: Executor
    hashed: Data | None = None

    def run_model(self, model: str) -> None:
        """Run all cells of one model."""
        if not self.plan.cells(model, NO_MODEL, "float32"):
            return
        try:
            identity = identify(model)
            contents = Contents.of(identity.folder, self._data)
        except UnknownNameError:
            raise
        except SlmquantError as error:
            self._fail_all(model, error)
            return
        self.rows.store.forget(model, NO_MODEL)  # rows of an earlier run without this model
        key = model_key(identity.sha256, contents.config_sha256, contents.tokenizer_sha256)
        decision = self._decide(model, key)
        cells = self.plan.cells(model, identity.sha256, decision.dtype, contents)
        work = ModelWork(self.plan, self.places, cells, self.rows.say, self.rows.begin, self.rows.log_of)
        ModelRun(work, self.rows, self.progress, decision, self.executor).run()

    def _fail_all(self, model: str, error: SlmquantError) -> None:
        """Store a failed row with the reason for every cell of a model that is not available."""
        cells = self.plan.cells(model, NO_MODEL, "float32")
        for spec in [*cells, *(spec.on(engine) for engine in self.plan.engines for spec in cells)]:
            self.rows.put(spec, Failure("failed", str(error)), Decision("float32"), now())

    @cached_property
    def _data(self) -> Data:
        """Hashes of the plan's data, computed at most once."""
        if self.hashed is not None:
            return self.hashed
        job = DataJob(self.plan.corpora, self.plan.tasks, self.places.data_dir)
        data = _twice(self.executor.hash_data, job)
        if isinstance(data, Failure):
            self.rows.say(f"the data could not be hashed: {data.reason}")
            return Data(dict.fromkeys(self.plan.corpora, UNKNOWN), {spec.name: UNKNOWN for spec in self.plan.tasks})
        return data

    def _decide(self, model: str, key: str) -> Decision:
        """The dtype to compute in: the plan's, or the result of a measurement."""
        if self.plan.dtype != "auto":
            return Decision(self.plan.dtype)
        job = PrecisionJob(model, key, self.plan.calibration.corpus, self.plan.device, self.places)
        measured = _twice(self.executor.decide, job)
        if isinstance(measured, Failure):
            remark = f"computed in float32: other dtypes could not be tried ({measured.reason})"
            self.rows.say(remark)
            return Decision("float32", remark=remark)
        self.rows.say(f"computing in {measured.dtype}: {'; '.join(map(str, measured.trials))}")
        return Decision(measured.dtype, tuple(measured.metrics()))


def _twice(compute: Callable[[A], T | Failure], job: A) -> T | Failure:
    """Compute what identifies cells; once more if that failed, as a killed process must not give them other ids."""
    result = compute(job)
    return compute(job) if isinstance(result, Failure) else result
