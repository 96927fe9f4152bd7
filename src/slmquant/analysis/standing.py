"""Compare cells on each task and text: with full precision, and with the best cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.cells import ACCURACIES, accuracy_tasks, text_tasks
from slmquant.analysis.compare import corrected
from slmquant.analysis.difference import Difference, difference, judged
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.store.record import ItemOutcome, Metric, Record

Answers = Mapping[str, Sequence[ItemOutcome]]
"""Cell id → its per-item answers; cells may be missing."""

_ON_TEXTS = ("perplexity", "kl_mean")
_APART = ("better", "worse", "different")


@dataclass(frozen=True)
class Standing:
    """The comparisons of all cells by one metric of one task.

    Attributes:
        task: As `str(TaskSpec)`.
        metric: `accuracy`, or `perplexity` or `kl_mean` of a text.
        against_reference: Cell id → comparison with full precision; p-values are corrected over all cells and
            metrics. Empty if full precision was not measured, and for divergences, which are from it already.
        against_best: Cell id → comparison with the best quantized cell; p-values are corrected for all pairs of cells
            and metrics, as any cell might have come out best.
        best: The best cell, then cells not significantly different from it. Empty if that is every cell.
    """

    task: str
    metric: str
    against_reference: Mapping[str, Difference]
    against_best: Mapping[str, Difference]
    best: tuple[str, ...]

    def named(self, verdict: str) -> tuple[str, ...]:
        """Cell ids with this verdict against full precision."""
        return tuple(cell for cell, one in self.against_reference.items() if one.verdict == verdict)

    @property
    def smallest_seen(self) -> float | None:
        """The largest of the smallest detectable differences of cells with the verdict "cannot tell"."""
        sizes = [entry.smallest_seen for entry in self.against_reference.values() if entry.verdict == "cannot tell"]
        known = [entry for entry in sizes if entry is not None]
        return max(known) if known and len(known) == len(sizes) else None


@dataclass(frozen=True)
class _Figure:
    """A metric to compare cells by: the first of `names` that a cell has on a task."""

    task: str
    metric: str
    names: tuple[str, ...]

    def of(self, record: Record) -> Metric | None:
        return next((metric for name in self.names if (metric := record.metric(name, self.task))), None)

    def loss(self, record: Record) -> float:
        """The metric as a loss: smaller is better."""
        metric = self.of(record)
        if metric is None:
            raise ValueError(f"cell {record.spec.label} has no {self.metric} on task {self.task!r}")
        return -metric.value if metric.higher_is_better else metric.value

    def compare(self, a: Record, b: Record, answers: Answers, margins: Margins) -> Difference:
        metric = self.of(a) or self.of(b)
        if metric is None:
            raise ValueError(f"neither cell has {self.metric} on task {self.task!r}")
        items = (answers.get(a.cell_id, ()), answers.get(b.cell_id, ()))
        return difference(metric.name, self.task, a, b, *items, margins)


def standings(records: Sequence[Record], answers: Answers, margins: Margins = DEFAULT_MARGINS) -> list[Standing]:
    """Compare cells by each primary endpoint that a quantized cell has, in the order of the task lists.

    Accuracies come first, then perplexities and divergences.

    Args:
        records: Cells of one model under one set of conditions.
        answers: Their per-item answers; without them tests use standard errors alone, which is conservative.
        margins: Differences that count as none.
    """
    measured = [record for record in records if record.status == "ok"]
    reference = next((record for record in measured if record.spec.is_reference), None)
    scored = {}
    for figure in _figures(measured):
        cells = [record for record in measured if not record.spec.is_reference and figure.of(record)]
        if cells:
            scored[figure] = sorted(cells, key=figure.loss)
    against_reference = corrected(
        {
            (figure, record.cell_id): figure.compare(reference, record, answers, margins)
            for figure, cells in scored.items()
            for record in cells
            if reference is not None and figure.of(reference)
        }
    )
    against_best = _corrected_for_choice(
        {
            (figure, record.cell_id): figure.compare(best, record, answers, margins)
            for figure, (best, *others) in scored.items()
            for record in others
        },
        sum(len(cells) * (len(cells) - 1) // 2 for cells in scored.values()),
    )
    result = []
    for figure, (best, *_) in scored.items():
        from_reference = {cell: one for (compared_by, cell), one in against_reference.items() if compared_by == figure}
        from_best = {cell: one for (compared_by, cell), one in against_best.items() if compared_by == figure}
        alike = [cell for cell, one in from_best.items() if one.verdict not in _APART]
        leaders = (best.cell_id, *alike) if len(alike) < len(from_best) else ()
        result.append(Standing(figure.task, figure.metric, from_reference, from_best, leaders))
    return result


def _corrected_for_choice(
    table: Mapping[tuple[_Figure, str], Difference], pairs: int
) -> dict[tuple[_Figure, str], Difference]:
    """Apply Bonferroni's correction for all pairs, because the best cell was picked by its score."""
    result = dict(table)
    for key, entry in table.items():
        if entry.p_value is not None:
            p = min(1.0, pairs * entry.p_value)
            equivalence = None if entry.p_equivalence is None else min(1.0, pairs * entry.p_equivalence)
            entry = replace(entry, p_corrected=p, p_equivalence_corrected=equivalence)
            result[key] = judged(entry, p, equivalence, pairs)
    return result


def _figures(records: Sequence[Record]) -> list[_Figure]:
    accuracies = [_Figure(task, "accuracy", ACCURACIES) for task in accuracy_tasks(records)]
    return accuracies + [_Figure(text, name, (name,)) for text in text_tasks(records) for name in _ON_TEXTS]
