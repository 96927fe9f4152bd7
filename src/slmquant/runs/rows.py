"""The rows of a run: turns the outcome of each cell into one, stores it and reports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from slmquant.engine_bench.jobs import EngineResult
from slmquant.interruption import finished_first, stop_if_interrupted
from slmquant.machine.clock import now
from slmquant.machine.environment import environment
from slmquant.machine.process import Failure
from slmquant.places import Places
from slmquant.runs.work import CellResult
from slmquant.store.logs import log_of, new_log, tidy
from slmquant.store.record import CellSpec, ComputeDtype, Environment, Metric, Record
from slmquant.store.sqlite import Store
from slmquant.tracks.task_checkpoints import TaskCheckpoints


@dataclass(frozen=True)
class Decision:
    """The dtype to compute in, the measurement behind it, and a remark if it could not be made."""

    dtype: ComputeDtype
    metrics: tuple[Metric, ...] = ()
    remark: str | None = None


@dataclass(frozen=True)
class Event:
    """News of a run: a remark, the beginning of cells, or the end of one.

    Attributes:
        text: One line; empty if cells begin.
        record: The finished cell; None for other news.
        done: Number of cells that have ended.
        total: Number of cells of the plan.
        begun: Cells that begin now: one, or those that an engine runs side by side.
        skipped: Whether an earlier run finished the cell.
    """

    text: str
    record: Record | None
    done: int
    total: int
    begun: tuple[CellSpec, ...] = ()
    skipped: bool = False


class Rows:
    """The rows of a run, in the order in which its cells end.

    Args:
        store: The store to write them to.
        places: Where cells keep the checkpoints of their tasks, which are removed with the row.
        tell: Called with every `Event`.
        total: Number of cells of the plan.

    Attributes:
        records: The rows so far, including those of an earlier run.
        skipped: Number of rows of an earlier run.
    """

    def __init__(self, store: Store, places: Places, tell: Callable[[Event], None], total: int) -> None:
        self.store = store
        self.records: list[Record] = []
        self.skipped = 0
        self._places, self._tell, self._total = places, tell, total

    def begin(self, *specs: CellSpec) -> None:
        """Report that cells begin; logs of their earlier tries are removed."""
        stop_if_interrupted()
        for spec in specs:
            new_log(self.store.path, spec.cell_id)
        self._tell(Event("", None, len(self.records), self._total, begun=specs))

    def log_of(self, spec: CellSpec) -> Path:
        """The file for what a cell prints."""
        return log_of(self.store.path, spec.cell_id)

    def put(
        self,
        spec: CellSpec,
        result: CellResult | EngineResult | Failure,
        decision: Decision,
        started: datetime,
        machine: Environment | None = None,
    ) -> None:
        """Store the row of a cell that ended just now, on `machine` or on this one; an interruption waits for that."""
        record = record_of(spec, result, decision, started, machine or environment())
        with finished_first():
            self.store.put(record, () if isinstance(result, Failure) else result.items)
            if record.is_finished:  # failed cells continue from there when tried again
                TaskCheckpoints.of(spec, self._places).forget()
        tidy(self.store.path)
        self.records = [other for other in self.records if other.cell_id != record.cell_id]  # after further rounds
        self.records.append(record)
        self.say(f"{spec.label}: {record.status}", record)

    def skip(self, spec: CellSpec) -> Record:
        """The row of a cell that an earlier run finished."""
        record = self.store.get(spec.cell_id)
        self.records.append(record)
        self.skipped += 1
        self._tell(
            Event(f"{spec.label}: {record.status}, done before", record, len(self.records), self._total, skipped=True)
        )
        return record

    def say(self, text: str, record: Record | None = None) -> None:
        """Report a remark, or the end of a cell."""
        self._tell(Event(text, record, len(self.records), self._total))


def record_of(
    spec: CellSpec,
    result: CellResult | EngineResult | Failure,
    decision: Decision,
    started: datetime,
    machine: Environment,
) -> Record:
    """The row of a cell that ended just now."""
    if isinstance(result, EngineResult):
        return _engine_record(spec, result, started, machine)
    return _record(spec, result, decision, started, machine)


def _engine_record(spec: CellSpec, result: EngineResult, started: datetime, machine: Environment) -> Record:
    return Record(
        spec=spec,
        status=result.status,
        reason="; ".join(filter(None, (result.reason, *result.notes))) or None,
        metrics=result.metrics,
        environment=machine,
        started_at=started,
        finished_at=now(),
    )


def _record(
    spec: CellSpec, result: CellResult | Failure, decision: Decision, started: datetime, machine: Environment
) -> Record:
    finished = now()
    if isinstance(result, Failure):
        return Record(
            spec=spec,
            status=result.status,
            reason=result.reason,
            environment=machine,
            started_at=started,
            finished_at=finished,
        )
    return Record(
        spec=spec,
        status="ok",
        reason="; ".join(filter(None, (decision.remark, *result.notes))) or None,
        metrics=(*result.metrics, *decision.metrics),
        phases=result.phases,
        data=result.data,
        model=result.model,
        environment=machine,
        started_at=started,
        finished_at=finished,
    )
