"""Track 1, compression performance: what the quantized model still knows, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmquant import tasks
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks._base import EvalContext


@dataclass(frozen=True)
class Evaluation:
    """What came of all tasks of a cell."""

    metrics: tuple[Metric, ...]
    data: tuple[DataCard, ...]
    items: tuple[ItemOutcome, ...]


def evaluate(context: EvalContext, specs: Sequence[TaskSpec]) -> Evaluation:
    """Run each task on one model.

    Raises:
        UnknownNameError: No such task.
        DataError: A task's data is absent, or the reference of a divergence was not measured yet.
        NumericalError: A loss was not finite.
    """
    results = [tasks.resolve(spec).run(context, spec) for spec in specs]
    return Evaluation(
        metrics=tuple(metric for result in results for metric in result.metrics),
        data=tuple(dict.fromkeys(card for result in results for card in result.data)),
        items=tuple(item for result in results for item in result.items),
    )
