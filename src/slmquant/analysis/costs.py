"""What cells cost beyond their own metrics: their share of shared work, and money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from slmquant.store.record import Phase, Record

_SECONDS_PER_HOUR = 3600.0


def shared_capture(record: Record) -> Phase | None:
    """The capture of statistics that a cell shares with other cells; None if it needs none."""
    return next((phase for phase in record.phases if phase.name == "capture" and phase.shared), None)


def users(records: Sequence[Record]) -> Counter[tuple[float, float | None]]:
    """Number of cells that used each capture.

    Every cell is charged the same measured capture in full, so its seconds tell which cells share it.
    """
    return Counter(_key(phase) for record in records if (phase := shared_capture(record)) is not None)


def cells_sharing(record: Record, among: Counter[tuple[float, float | None]]) -> int:
    """Number of cells that used the capture of `record`, itself included; 0 if it needs none."""
    phase = shared_capture(record)
    return 0 if phase is None else among[_key(phase)]


def cpu_s_here(record: Record, among: Counter[tuple[float, float | None]]) -> float | None:
    """Processor seconds of a cell with its part of the capture, divided among the cells that used it.

    None if the cell has no measured cost.
    """
    alone = record.metric("quantize_cpu_s")
    if alone is None:
        return None
    phase, sharing = shared_capture(record), cells_sharing(record, among)
    if phase is None or phase.cpu_s is None or sharing == 0:
        return alone.value
    return alone.value - phase.cpu_s * (1 - 1 / sharing)


def price(record: Record, per_hour: float) -> float | None:
    """Money for the wall-clock time of capture and quantize; None if that was not measured."""
    seconds = record.metric("quantize_s")
    return None if seconds is None else seconds.value * per_hour / _SECONDS_PER_HOUR


def _key(phase: Phase) -> tuple[float, float | None]:
    return phase.seconds, phase.cpu_s
