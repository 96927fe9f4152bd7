"""Turns the outcome of a cell into a row of the store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from slmquant.engine_bench.session import EngineResult
from slmquant.machine.clock import now
from slmquant.machine.environment import environment
from slmquant.machine.process import Failure
from slmquant.runs.work import CellResult
from slmquant.store.record import CellSpec, ComputeDtype, Metric, Record


@dataclass(frozen=True)
class Decision:
    """The dtype to compute in, the measurement behind it, and a remark if it could not be made."""

    dtype: ComputeDtype
    metrics: tuple[Metric, ...] = ()
    remark: str | None = None


def record_of(
    spec: CellSpec, result: CellResult | EngineResult | Failure, decision: Decision, started: datetime
) -> Record:
    """The row of a cell that ended just now."""
    if isinstance(result, EngineResult):
        return _engine_record(spec, result, started)
    return _record(spec, result, decision, started)


def _engine_record(spec: CellSpec, result: EngineResult, started: datetime) -> Record:
    return Record(
        spec=spec,
        status=result.status,
        reason="; ".join(filter(None, (result.reason, *result.notes))) or None,
        metrics=result.metrics,
        environment=environment(),
        started_at=started,
        finished_at=now(),
    )


def _record(spec: CellSpec, result: CellResult | Failure, decision: Decision, started: datetime) -> Record:
    finished = now()
    machine = environment()
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
