"""Track 1, compression performance: evaluate the quantized model task by task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from slmquant import tasks
from slmquant.errors import RefusedError
from slmquant.machine.meters import peak_rss_bytes
from slmquant.model.computing.modes import attending_in
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.contract import EvalContext
from slmquant.tracks.task_checkpoints import TaskCheckpoint, TaskCheckpoints


@dataclass(frozen=True)
class Evaluation:
    """Results of all tasks of a cell.

    Attributes:
        metrics: Metrics of all tasks.
        data: Data sets that the tasks used.
        items: Outcomes of single items.
        before: Tasks that an earlier process had finished.
        before_s: Wall seconds that those took.
        before_peak_rss_bytes: Peak resident memory of that process; 0 if there was none.
        refused: Tasks that this model does not support, and why, one line each.
        remarks: Remarks of the tasks, one line each.
    """

    metrics: tuple[Metric, ...]
    data: tuple[DataCard, ...]
    items: tuple[ItemOutcome, ...]
    before: tuple[TaskSpec, ...] = ()
    before_s: float = 0.0
    before_peak_rss_bytes: int = 0
    refused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def evaluate(context: EvalContext, specs: Sequence[TaskSpec], checkpoints: TaskCheckpoints | None = None) -> Evaluation:
    """Run each task on one model; a task that the model does not support does not stop the others.

    Args:
        context: The model.
        specs: The tasks.
        checkpoints: Results of an earlier process, which are reused; new results are stored in it. None stores nothing.

    Raises:
        RefusedError: The model supports none of the tasks.
        UnknownNameError: A task is not known.
        DataError: A task's data is missing, or the reference of a divergence was not measured yet.
        NumericalError: A loss was not finite.
    """
    answers: list[TaskCheckpoint] = []
    before: dict[TaskSpec, TaskCheckpoint] = {}
    refusals: dict[TaskSpec, RefusedError] = {}
    for spec in specs:
        checkpoint = None if checkpoints is None else checkpoints.find(spec)
        if checkpoint is not None and (not context.is_reference or tasks.has_reference(context.reference_key, spec)):
            before[spec] = checkpoint
        else:
            started = time.perf_counter()
            try:
                with attending_in(context.mode.attention):
                    result = tasks.resolve(spec).run(context, spec)
            except RefusedError as error:
                refusals[spec] = error
                continue
            checkpoint = TaskCheckpoint(result, time.perf_counter() - started, peak_rss_bytes())
            if checkpoints is not None:
                checkpoints.keep(spec, checkpoint)
        answers.append(checkpoint)
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
