"""Track 1, compression performance: what the quantized model still knows, task by task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from slmquant import tasks
from slmquant.errors import RefusedError
from slmquant.machine.meters import peak_rss_bytes
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.contract import EvalContext
from slmquant.tracks.task_checkpoints import TaskCheckpoint, TaskCheckpoints


@dataclass(frozen=True)
class Evaluation:
    """What came of all tasks of a cell.

    Attributes:
        metrics: Of all tasks.
        data: What they were asked of.
        items: Outcomes one by one.
        before: Tasks that an earlier process had answered.
        before_s: What those took.
        before_peak_rss_bytes: Highest resident memory of that process; 0 where there are none.
        refused: Tasks that cannot be asked of this model, and why, a line each.
        remarks: What the tasks say of what was asked, a line each.
    """

    metrics: tuple[Metric, ...]
    data: tuple[DataCard, ...]
    items: tuple[ItemOutcome, ...]
    before: tuple[TaskSpec, ...] = ()
    before_s: float = 0.0
    before_peak_rss_bytes: int = 0
    refused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def evaluate(context: EvalContext, specs: Sequence[TaskSpec], answered: TaskCheckpoints | None = None) -> Evaluation:
    """Run each task on one model; one that cannot be asked of it costs the others nothing.

    Args:
        context: The model.
        specs: The tasks.
        answered: What an earlier process answered of them, which is taken as it is, and where every further answer is
            kept; None where nothing is kept.

    Raises:
        RefusedError: No task can be asked of this model.
        UnknownNameError: No such task.
        DataError: A task's data is absent, or the reference of a divergence was not measured yet.
        NumericalError: A loss was not finite.
    """
    answers: list[TaskCheckpoint] = []
    before: dict[TaskSpec, TaskCheckpoint] = {}
    refusals: dict[TaskSpec, RefusedError] = {}
    for spec in specs:
        found = None if answered is None else answered.find(spec)
        if found is not None and (not context.is_reference or tasks.has_reference(context, spec)):
            before[spec] = found
        else:
            started = time.perf_counter()
            try:
                result = tasks.resolve(spec).run(context, spec)
            except RefusedError as error:
                refusals[spec] = error
                continue
            found = TaskCheckpoint(result, time.perf_counter() - started, peak_rss_bytes())
            if answered is not None:
                answered.keep(spec, found)
        answers.append(found)
    if refusals and not answers:
        raise next(iter(refusals.values()))
    results = [answer.result for answer in answers]
    return Evaluation(
        metrics=tuple(metric for result in results for metric in result.metrics),
        data=tuple(dict.fromkeys(card for result in results for card in result.data)),
        items=tuple(item for result in results for item in result.items),
        before=tuple(before),
        before_s=sum(answer.seconds for answer in before.values()),
        before_peak_rss_bytes=max((answer.peak_rss_bytes for answer in before.values()), default=0),
        remarks=tuple(dict.fromkeys(remark for result in results for remark in result.remarks)),
        refused=tuple(f"{spec} was not asked: {error}" for spec, error in refusals.items()),
    )
