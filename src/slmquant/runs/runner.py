"""Runs a plan: the reference first, then cell by cell, each in its own process, each ending as a row.

The store is written after every cell, and a cell's results are saved after every task, so a run that is killed loses
at most the current task; repeating the command skips finished cells. Work that cells share (statistics, the
reference's states) is cached.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import torch

from slmquant import methods, tasks
from slmquant.calib.cached import CapturedFile, CaptureJob, run_capture
from slmquant.calib.statistics import Statistic
from slmquant.engine_bench.session import EngineResult
from slmquant.errors import SlmquantError, UnknownNameError
from slmquant.files import cache_dir
from slmquant.machine.clock import now
from slmquant.machine.process import Failure, run_isolated
from slmquant.model.sources.load import check_device, identify, read_settings
from slmquant.progress import Progress, Silent
from slmquant.runs.early_stopping.loop import Separation
from slmquant.runs.engine_cells import EngineStage, absence
from slmquant.runs.inputs import Contents, Data, DataJob, read_data
from slmquant.runs.model_snapshot import kept_model
from slmquant.runs.plan import Plan
from slmquant.runs.precision import PrecisionJob, decide_precision
from slmquant.runs.repeats import with_repeats
from slmquant.runs.rows import Decision, record_of
from slmquant.runs.work import (
    CellJob,
    CellResult,
    run_cell,
)
from slmquant.schemes import parse
from slmquant.store.inputs import UNKNOWN, changes, model_key
from slmquant.store.record import CellSpec, Record
from slmquant.store.sqlite import Store
from slmquant.tasks.common.contract import ReferenceKey
from slmquant.tracks.task_checkpoints import TaskCheckpoints

NO_MODEL = "unavailable"
"""Fingerprint in the rows of a model that is not available or damaged."""


@dataclass(frozen=True)
class Event:
    """News of a run: a remark, or the end of a cell.

    Attributes:
        text: One line.
        record: The finished cell; None for a remark.
        done: Number of cells that have ended.
        total: Number of cells of the plan.
    """

    text: str
    record: Record | None
    done: int
    total: int


@dataclass(frozen=True)
class RunResult:
    """All cells of a plan, in its order, including those that an earlier run finished."""

    records: tuple[Record, ...]
    skipped: int

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells that ended neither `ok` nor `refused`."""
        return tuple(record for record in self.records if record.status not in ("ok", "refused"))


def run(
    plan: Plan,
    store: Store,
    *,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    tell: Callable[[Event], None] | None = None,
) -> RunResult:
    """Run every cell of `plan` that `store` does not hold yet.

    Args:
        plan: What to run.
        store: The store to write rows to.
        data_dir: Local folder of data, tried first.
        progress: Receives progress updates of the current cell.
        tell: Called with every `Event`.

    Raises:
        UnknownNameError: A model source is not known.
        RefusedError: The device is not available.
    """
    check_device(plan.device)
    bench = _Bench(plan, store, data_dir, progress or Silent(), tell or _ignore)
    for model in plan.models:
        bench.run_model(model)
    return RunResult(tuple(bench.records), bench.skipped)


def _ignore(event: Event) -> None:
    """Discard an event."""
    del event


class _Bench:
    """State of a run."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        data_dir: Path | None,
        progress: Progress,
        tell: Callable[[Event], None],
    ) -> None:
        self.plan, self.store, self.data_dir = plan, store, data_dir
        self.progress, self._tell = progress, tell
        self.cache_dir = cache_dir()
        self.records: list[Record] = []
        self.skipped = 0
        self._captured: dict[tuple[str, frozenset[Statistic]], CapturedFile | Failure] = {}
        self._unkept: dict[CellSpec, Failure] = {}
        self._total = len(plan.models) * len(plan.cells("model", "0", "float32")) * (1 + len(plan.engines))

    def run_model(self, model: str) -> None:
        """Run all cells of one model."""
        try:
            identity = identify(model)
            contents = Contents.of(identity.folder, self._data)
        except UnknownNameError:
            raise
        except SlmquantError as error:
            self._fail_all(model, error)
            return
        self.store.forget(model, NO_MODEL)  # rows of an earlier run without this model
        key = model_key(identity.sha256, contents.config_sha256, contents.tokenizer_sha256)
        decision = self._decide(model, key)
        cells = self.plan.cells(model, identity.sha256, decision.dtype, contents)
        pending = [spec for spec in cells if not self.store.finished(spec.cell_id)]
        if pending:
            self._say_what_changed(pending)
        if pending and cells[0] not in pending and not self._has_reference_states(cells[0]):
            self._say("the full-precision model's states are no longer cached; measuring it again")
            pending.insert(0, cells[0])
        with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
            if pending and any(task.until_separated is not None for task in self.plan.asked):
                self._separate(cells, pending, decision)
            else:
                for spec in cells:
                    if spec in pending:
                        self._finish(spec, decision, Path(scratch))
                    else:
                        self._skip(spec)
            self._run_engines(cells, decision, Path(scratch))

    def _separate(self, cells: list[CellSpec], pending: list[CellSpec], decision: Decision) -> None:
        """Run cells with early stopping; stored cells take part, too, and may evaluate more items."""
        separation = Separation(self.store, self._job, self.progress, self._say, self.plan.timeout_s)
        for spec in cells:
            if spec in pending:
                ended = separation.enter(spec)
                if ended is not None:
                    self._store(spec, ended.result, decision, ended.started_at)
            else:
                self._skip(spec)
                if self.records[-1].status == "ok":
                    separation.enter_finished(self.records[-1])
        for ended in separation.run():
            self._store(ended.spec, ended.result, decision, ended.started_at)

    def _fail_all(self, model: str, error: SlmquantError) -> None:
        """Store a failed row with the reason for every cell of a model that is not available."""
        cells = self.plan.cells(model, NO_MODEL, "float32")
        for spec in [*cells, *(spec.on(engine) for engine in self.plan.engines for spec in cells)]:
            self._store(spec, Failure("failed", str(error)), Decision("float32"), now())

    @cached_property
    def _data(self) -> Data:
        """Hashes of the plan's data, computed once, in a child process, as lm-eval is large."""
        job = DataJob(self.plan.calibration.corpus, self.plan.tasks, self.data_dir)
        data = run_isolated(read_data, job, self.progress)
        if isinstance(data, Failure):
            self._say(f"the data could not be hashed: {data.reason}")
            return Data(UNKNOWN, {spec.name: UNKNOWN for spec in self.plan.tasks})
        return data

    def _say_what_changed(self, pending: list[CellSpec]) -> None:
        """Report which cells are measured again because the store's rows have other inputs or older code."""
        known: dict[CellSpec, CellSpec] = {
            record.spec.question: record.spec
            for record in self.store.records(pending[0].model)
            if record.status in ("ok", "refused")
        }
        changed = [(spec, changes(known[spec.question], spec)) for spec in pending if spec.question in known]
        for what in dict.fromkeys(", ".join(which) for _, which in changed if which):
            cells = [spec.label for spec, which in changed if ", ".join(which) == what]
            more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
            self._say(
                f"measuring again, because inputs have changed ({what}): {', '.join(cells[:3])}{more}; "
                "older rows are kept and listed separately"
            )

    def _decide(self, model: str, key: str) -> Decision:
        """The dtype to compute in: the plan's, or the result of a measurement."""
        if self.plan.dtype != "auto":
            return Decision(self.plan.dtype)
        job = PrecisionJob(model, key, self.plan.calibration.corpus, self.plan.device, self.data_dir, self.cache_dir)
        measured = run_isolated(decide_precision, job, self.progress)
        if isinstance(measured, Failure):
            remark = f"computed in float32: bfloat16 could not be tried ({measured.reason})"
            self._say(remark)
            return Decision("float32", remark=remark)
        self._say(
            f"computing in {measured.dtype}: bfloat16 is {measured.speedup:.1f} times as fast here; its divergence "
            f"from float32 is {measured.kl:.2g} nats, at most {measured.kl_high:.2g}"
        )
        return Decision(measured.dtype, tuple(measured.metrics()))

    def _capture(self, spec: CellSpec, wanted: frozenset[Statistic]) -> CapturedFile | Failure:
        """Capture the statistics in `wanted`, which several cells may share; each is charged only for its own."""
        job = CaptureJob(
            model=spec.model,
            calibration=self.plan.calibration,
            wanted=wanted,
            dtype=spec.compute_dtype,
            device=self.plan.device,
            data_dir=self.data_dir,
            cache_dir=self.cache_dir,
        )
        return run_isolated(run_capture, job, self.progress, self.plan.timeout_s)

    def _job(self, spec: CellSpec) -> CellJob | Failure:
        """The job of a cell's process; statistics are captured for the first cell that needs them."""
        captured = None
        if spec.calibration is not None and (needs := _shared_needs(spec)):
            if (spec.model, needs) not in self._captured:
                self._captured[spec.model, needs] = self._capture(spec, needs)
            captured = self._captured[spec.model, needs]
        if isinstance(captured, Failure):
            return replace(captured, reason=f"calibration: {captured.reason}")
        return CellJob(spec, captured, self.data_dir, self.cache_dir)

    def _finish(self, spec: CellSpec, decision: Decision, scratch: Path) -> None:
        """Run one cell and store its row."""
        started = now()
        keep_in = scratch / spec.cell_id if self.plan.engines else None
        self._store(spec, self._run(spec, keep_in), decision, started)

    def _run(self, spec: CellSpec, keep_in: Path | None) -> CellResult | Failure:
        job = self._job(spec)
        if isinstance(job, Failure):
            return job
        result = run_isolated(run_cell, replace(job, keep_in=keep_in), self.progress, self.plan.timeout_s)
        if isinstance(result, Failure):
            return result
        return with_repeats(result, job, self.progress, self.plan.timeout_s)

    def _run_engines(self, cells: list[CellSpec], decision: Decision, scratch: Path) -> None:
        """Measure the model's cells on every engine of the plan, unless the store holds all of them."""
        for engine in self.plan.engines:
            in_torch = {spec.on(engine): spec for spec in cells}
            pending = [spec for spec in in_torch if not self.store.finished(spec.cell_id)]
            for spec in in_torch:
                if spec not in pending:
                    self._skip(spec)
            if not pending:
                continue
            started = now()
            if (absent := absence(engine)) is not None:
                for spec in pending:
                    self._store(spec, absent, decision, started)
                continue
            baseline = cells[0].on(engine)
            asked = pending if baseline in pending else [baseline, *pending]
            folders = {spec: self._kept(in_torch[spec], scratch) for spec in asked}
            stage = EngineStage(
                folders, scratch, self.data_dir, self.plan.engine_rounds, self.plan.timeout_s, self.progress
            )
            for spec, result in stage.run(engine):
                self._store(spec, result, decision, started)

    def _kept(self, spec: CellSpec, scratch: Path) -> Path | Failure:
        """Folder of a cell's quantized model; it is quantized again if an earlier run measured the cell."""
        folder = scratch / spec.cell_id
        if (known := self._unkept.get(spec)) is not None:
            return known
        if not folder.exists():
            ended = self._run(spec.model_copy(update={"tasks": ()}), folder)
            if isinstance(ended, Failure):
                self._unkept[spec] = ended
                return ended
        return kept_model(folder)

    def _store(
        self, spec: CellSpec, result: CellResult | EngineResult | Failure, decision: Decision, started: datetime
    ) -> None:
        record = record_of(spec, result, decision, started)
        self.store.put(record, () if isinstance(result, Failure) else result.items)
        if record.status in ("ok", "refused"):  # failed cells continue from there when tried again
            TaskCheckpoints.of(spec, self.cache_dir, self.data_dir).forget()
        self.records = [other for other in self.records if other.cell_id != record.cell_id]  # after further rounds
        self.records.append(record)
        self._say(f"{spec.label}: {record.status}", record)

    def _skip(self, spec: CellSpec) -> None:
        record = self.store.get(spec.cell_id)
        self.records.append(record)
        self.skipped += 1
        self._say(f"{spec.label}: {record.status}, done before", record)

    def _has_reference_states(self, spec: CellSpec) -> bool:
        """Whether all states that the divergence compares with are cached; loads no weights."""
        try:
            settings = read_settings(spec.model)
            key = ReferenceKey(
                model_sha256=spec.model_key,
                dtype=getattr(torch, spec.compute_dtype),
                device=torch.device(spec.device),
                config=settings.config,
                tokenizer=settings.tokenizer,
                cache_dir=self.cache_dir,
                data_dir=self.data_dir,
                progress=self.progress,
            )
            return all(tasks.has_reference(key, task) for task in spec.tasks)
        except SlmquantError:
            return False  # the reference's row will say what is wrong

    def _say(self, text: str, record: Record | None = None) -> None:
        self._tell(Event(text, record, len(self.records), self._total))


def _shared_needs(spec: CellSpec) -> frozenset[Statistic]:
    """Statistics of the full-precision model that a cell needs."""
    return methods.load(spec.method).needs_for(parse(spec.scheme))
