"""Check records against their own items: identity, completeness, and every number that items decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from slmquant.analysis.pairs import PER_ITEM
from slmquant.store.record import ItemOutcome, Metric, Record

TOLERANCE = 1e-6
"""Largest relative difference of a metric from the mean of its items; published items have 9 digits."""


def complaints(record: Record, items: Sequence[ItemOutcome]) -> Iterator[str]:
    """What contradicts itself in a record and its items, one sentence each.

    Accuracies, perplexities and mean divergences are computed again from the items. Items of a metric with weights of
    their own (windows of different length, groups of tasks) are left out.
    """
    tasks = {str(task) for task in record.spec.tasks}
    foreign = sorted({item.task for item in items} - tasks)
    if foreign:
        yield f"has items of {', '.join(foreign)}, which is not among its tasks"
    if record.finished_at < record.started_at:
        yield f"finished at {record.finished_at:%Y-%m-%d %H:%M:%S}, before it was started"
    if record.status != "ok" and record.reason is None:
        yield f"is {record.status} without a reason"
    for metric in record.metrics:
        expected = _recounted(metric, [item for item in items if item.task == metric.task])
        if expected is not None and not math.isclose(metric.value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"has {metric.name} {metric.value:.9g} on {metric.task}, and its items say {expected:.9g}"


def _recounted(metric: Metric, items: Sequence[ItemOutcome]) -> float | None:
    """The metric computed from items; None if they do not decide it."""
    if not items or len(items) != (metric.clusters or metric.n):
        return None
    values = [item.values[metric.name] for item in items if metric.name in item.values]
    if len(values) == len(items):
        return statistics.fmean(values)
    for name, (of, sign) in PER_ITEM.items():
        losses = [sign * item.values[name] for item in items if name in item.values]
        if of == metric.name and len(losses) == len(items):
            return math.exp(statistics.fmean(losses))
    return None
