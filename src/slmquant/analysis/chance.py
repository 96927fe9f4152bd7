"""Chance-corrected accuracy: how far a model is above guessing."""

from __future__ import annotations

from dataclasses import dataclass

from slmquant.analysis.cells import accuracy, stops_early
from slmquant.analysis.intervals import Interval, interval_of
from slmquant.analysis.sequential import share_sequence
from slmquant.store.record import Metric, Record


@dataclass(frozen=True)
class AboveChance:
    """(accuracy − chance) / (1 − chance): 0 is guessing, 1 is all correct; negative below chance.

    Attributes:
        value: That ratio.
        stderr: Its standard error: the accuracy's divided by (1 − chance), as chance is known exactly.
        interval: Its 95 % interval: the accuracy's, shifted and scaled in the same way.
        n: Number of items.
    """

    value: float
    stderr: float | None
    interval: Interval | None
    n: int | None


def above_chance(record: Record, task: str) -> AboveChance | None:
    """The chance-corrected accuracy of a task; None if accuracy or chance is unknown, or chance is 1."""
    metric = accuracy(record, task)
    chance = record.metric("chance", task)
    if metric is None or chance is None or chance.value >= 1:
        return None
    unit = 1 - chance.value
    interval = accuracy_interval(record, metric)
    return AboveChance(
        value=(metric.value - chance.value) / unit,
        stderr=None if metric.stderr is None else metric.stderr / unit,
        interval=None if interval is None else interval.rescaled(chance.value, unit),
        n=metric.n,
    )


def accuracy_interval(record: Record, metric: Metric) -> Interval | None:
    """The 95 % interval of a cell's metric; an anytime-valid one if the task stopped early."""
    if metric.task is not None and metric.n is not None and stops_early(record, metric.task):
        right = metric.value * metric.n
        return share_sequence(round(right), metric.n) if abs(right - round(right)) < 1e-6 else None
    return interval_of(metric)
