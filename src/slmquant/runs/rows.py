"""The rows of a run: turns the outcome of each cell into one, stores it and reports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from slmquant.engine_bench.jobs import EngineResult
from slmquant.machine.clock import now
from slmquant.machine.environment import environment
from slmquant.machine.process import Failure
from slmquant.places import Places
from slmquant.runs.work import CellResult
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

    def put(
        self,
        spec: CellSpec,
        result: CellResult | EngineResult | Failure,
        decision: Decision,
        started: datetime,
        machine: Environment | None = None,
    ) -> None:
        """Store the row of a cell that ended just now, on `machine` or on this one."""
        record = record_of(spec, result, decision, started, machine or environment())
        self.store.put(record, () if isinstance(result, Failure) else result.items)
        if record.is_finished:  # failed cells continue from there when tried again
            TaskCheckpoints.of(spec, self._places).forget()
        self.records = [other for other in self.records if other.cell_id != record.cell_id]  # after further rounds
        self.records.append(record)
        self.say(f"{spec.label}: {record.status}", record)

    def skip(self, spec: CellSpec) -> Record:
        """The row of a cell that an earlier run finished."""
        record = self.store.get(spec.cell_id)
        self.records.append(record)
        self.skipped += 1
        self.say(f"{spec.label}: {record.status}, done before", record)
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
