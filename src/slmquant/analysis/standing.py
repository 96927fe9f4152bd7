"""How cells stand on each task: against full precision, and against the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.cells import accuracy, accuracy_tasks, is_reference
from slmquant.analysis.compare import corrected
from slmquant.analysis.difference import Difference, difference
from slmquant.store.record import ItemOutcome, Record

Answers = Mapping[str, Sequence[ItemOutcome]]
"""Cell id → what it answered on each item; cells may be missing."""


@dataclass(frozen=True)
class Standing:
    """One task.

    Attributes:
        task: As `str(TaskSpec)`.
        against_reference: Cell id → how it differs from full precision; p-values are corrected over all cells and
            tasks. Empty where full precision was not measured.
        best: Cell ids of the quantized cell that scored best and of those that cannot be told apart from it, best
            first. The best was picked by its score, which makes a set like this a little too small.
    """

    task: str
    against_reference: Mapping[str, Difference]
    best: tuple[str, ...]

    @property
    def indistinguishable(self) -> tuple[str, ...]:
        """Cell ids that cannot be told apart from full precision."""
        alike = ("equal", "indistinguishable")
        return tuple(cell for cell, one in self.against_reference.items() if one.verdict in alike)


def standings(records: Sequence[Record], answers: Answers) -> list[Standing]:
    """The standing of each task on which a quantized cell has an accuracy, in the order of the cells' own task lists.

    Args:
        records: Cells of one model under one set of conditions.
        answers: Their answers; without them differences are judged by standard errors alone, which is pessimistic.
    """
    measured = [record for record in records if record.status == "ok"]
    reference = next((record for record in measured if is_reference(record)), None)
    scored = {
        task: {record.cell_id: record for record in measured if not is_reference(record) and accuracy(record, task)}
        for task in accuracy_tasks(measured)
    }
    scored = {task: cells for task, cells in scored.items() if cells}
    against_reference = corrected(
        {
            (task, cell_id): _on(task, reference, record, answers)
            for task, cells in scored.items()
            for cell_id, record in cells.items()
            if reference is not None and accuracy(reference, task)
        }
    )
    ranked = {task: sorted(cells.values(), key=lambda r: -_score(r, task)) for task, cells in scored.items()}
    against_best = corrected(
        {
            (task, record.cell_id): _on(task, best, record, answers)
            for task, (best, *others) in ranked.items()
            for record in others
        }
    )
    return [
        Standing(
            task=task,
            against_reference={cell: one for (of, cell), one in against_reference.items() if of == task},
            best=(
                ranked[task][0].cell_id,
                *(
                    cell
                    for (of, cell), one in against_best.items()
                    if of == task and one.verdict in ("equal", "indistinguishable")
                ),
            ),
        )
        for task in scored
    ]


def _on(task: str, a: Record, b: Record, answers: Answers) -> Difference:
    metric = accuracy(a, task) or accuracy(b, task)
    if metric is None:
        raise ValueError(f"neither cell has an accuracy on {task!r}")
    return difference(metric.name, task, a, b, answers.get(a.cell_id, ()), answers.get(b.cell_id, ()))


def _score(record: Record, task: str) -> float:
    metric = accuracy(record, task)
    return metric.value if metric else 0.0
