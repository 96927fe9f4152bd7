"""How cells stand on each task and text: against full precision, and against the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.cells import ACCURACIES, accuracy_tasks, is_reference, text_tasks
from slmquant.analysis.compare import corrected
from slmquant.analysis.difference import Difference, difference
from slmquant.store.record import ItemOutcome, Metric, Record

Answers = Mapping[str, Sequence[ItemOutcome]]
"""Cell id → what it answered on each item; cells may be missing."""

_ON_TEXTS = ("perplexity", "kl_mean")
_ALIKE = ("equal", "indistinguishable")
FEWEST_WINDOWS = 8
"""Of a text, from which on a verdict is given: with fewer, even a ruined model can hardly be told from a good one."""


@dataclass(frozen=True)
class Standing:
    """One figure of one task.

    Attributes:
        task: As `str(TaskSpec)`.
        metric: `accuracy`, or `perplexity` or `kl_mean` of a text.
        against_reference: Cell id → how it differs from full precision; p-values are corrected over all cells and
            figures. Empty where full precision was not measured, and for divergences, which are from it.
        best: Cell ids of the quantized cell that scored best and of those that cannot be told apart from it, best
            first. The best was picked by its score, which makes a set like this a little too small.
    """

    task: str
    metric: str
    against_reference: Mapping[str, Difference]
    best: tuple[str, ...]

    @property
    def indistinguishable(self) -> tuple[str, ...]:
        """Cell ids that cannot be told apart from full precision."""
        return tuple(cell for cell, one in self.against_reference.items() if one.verdict in _ALIKE)


@dataclass(frozen=True)
class _Figure:
    """What cells are compared by: the first of `names` that a cell has on a task."""

    task: str
    metric: str
    names: tuple[str, ...]

    def of(self, record: Record) -> Metric | None:
        return next((metric for name in self.names if (metric := record.metric(name, self.task))), None)

    def loss(self, record: Record) -> float:
        """Smaller is better."""
        metric = self.of(record)
        if metric is None:
            raise ValueError(f"{record.spec.label} has no {self.metric} on {self.task!r}")
        return -metric.value if metric.higher_is_better else metric.value

    def is_of_too_little(self, records: Sequence[Record], compared: Sequence[Difference]) -> bool:
        """Whether this is a figure of a text of few windows."""
        if self.metric == "accuracy":
            return False
        known = [metric for record in records if (metric := self.of(record)) is not None]
        windows = [1 if metric.stderr is None else metric.clusters for metric in known]  # one alone has no error
        return any(
            count is not None and count < FEWEST_WINDOWS for count in (*windows, *(one.pairs for one in compared))
        )

    def compare(self, a: Record, b: Record, answers: Answers) -> Difference:
        metric = self.of(a) or self.of(b)
        if metric is None:
            raise ValueError(f"neither cell has {self.metric} on {self.task!r}")
        items = (answers.get(a.cell_id, ()), answers.get(b.cell_id, ()))
        return difference(metric.name, self.task, a, b, *items)


def standings(records: Sequence[Record], answers: Answers) -> list[Standing]:
    """The standing by each figure that a quantized cell has, in the order of the cells' own task lists.

    Accuracies first, then perplexities and divergences. Those of a text of fewer than `FEWEST_WINDOWS` windows are left
    out, and any figure whose error no cell knows.

    Args:
        records: Cells of one model under one set of conditions.
        answers: Their answers; without them differences are judged by standard errors alone, which is pessimistic.
    """
    measured = [record for record in records if record.status == "ok"]
    reference = next((record for record in measured if is_reference(record)), None)
    scored = {}
    for figure in _figures(measured):
        cells = [record for record in measured if not is_reference(record) and figure.of(record)]
        if cells:
            scored[figure] = sorted(cells, key=figure.loss)
    against_reference = corrected(
        {
            (figure, record.cell_id): figure.compare(reference, record, answers)
            for figure, cells in scored.items()
            for record in cells
            if reference is not None and figure.of(reference)
        }
    )
    against_best = corrected(
        {
            (figure, record.cell_id): figure.compare(best, record, answers)
            for figure, (best, *others) in scored.items()
            for record in others
        }
    )
    found = []
    for figure, (best, *_) in scored.items():
        from_reference = {cell: one for (of, cell), one in against_reference.items() if of == figure}
        from_best = {cell: one for (of, cell), one in against_best.items() if of == figure}
        compared = (*from_reference.values(), *from_best.values())
        if any(one.verdict == "unknown" for one in compared) or figure.is_of_too_little(measured, compared):
            continue
        alike = (cell for cell, one in from_best.items() if one.verdict in _ALIKE)
        found.append(Standing(figure.task, figure.metric, from_reference, (best.cell_id, *alike)))
    return found


def _figures(records: Sequence[Record]) -> list[_Figure]:
    accuracies = [_Figure(task, "accuracy", ACCURACIES) for task in accuracy_tasks(records)]
    return accuracies + [_Figure(text, name, (name,)) for text in text_tasks(records) for name in _ON_TEXTS]
