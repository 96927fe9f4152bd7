"""How cells stand on each task and text: against full precision, and against the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.cells import ACCURACIES, accuracy_tasks, is_reference, text_tasks
from slmquant.analysis.compare import corrected
from slmquant.analysis.difference import Difference, difference, judged
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.store.record import ItemOutcome, Metric, Record

Answers = Mapping[str, Sequence[ItemOutcome]]
"""Cell id → what it answered on each item; cells may be missing."""

_ON_TEXTS = ("perplexity", "kl_mean")
_APART = ("better", "worse", "different")


@dataclass(frozen=True)
class Standing:
    """One figure of one task.

    Attributes:
        task: As `str(TaskSpec)`.
        metric: `accuracy`, or `perplexity` or `kl_mean` of a text.
        against_reference: Cell id → how it differs from full precision; p-values are corrected over all cells and
            figures. Empty where full precision was not measured, and for divergences, which are from it.
        against_best: Cell id → how it differs from the quantized cell that scored best; p-values are corrected for all
            pairs of cells and figures, as any cell might have come out best.
        best: The cells that are not told apart from the one that scored best, that one first; none where nothing is
            told apart from it.
    """

    task: str
    metric: str
    against_reference: Mapping[str, Difference]
    against_best: Mapping[str, Difference]
    best: tuple[str, ...]

    def named(self, verdict: str) -> tuple[str, ...]:
        """Cell ids of this verdict against full precision."""
        return tuple(cell for cell, one in self.against_reference.items() if one.verdict == verdict)

    @property
    def smallest_seen(self) -> float | None:
        """Of the cells that are in doubt against full precision, the largest of what could have been seen."""
        found = [one.smallest_seen for one in self.against_reference.values() if one.verdict == "cannot tell"]
        known = [one for one in found if one is not None]
        return max(known) if known and len(known) == len(found) else None


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

    def compare(self, a: Record, b: Record, answers: Answers, margins: Margins) -> Difference:
        metric = self.of(a) or self.of(b)
        if metric is None:
            raise ValueError(f"neither cell has {self.metric} on {self.task!r}")
        items = (answers.get(a.cell_id, ()), answers.get(b.cell_id, ()))
        return difference(metric.name, self.task, a, b, *items, margins)


def standings(records: Sequence[Record], answers: Answers, margins: Margins = DEFAULT_MARGINS) -> list[Standing]:
    """The standing by each primary endpoint that a quantized cell has, in the order of the cells' own task lists.

    Accuracies first, then perplexities and divergences.

    Args:
        records: Cells of one model under one set of conditions.
        answers: Their answers; without them differences are judged by standard errors alone, which is pessimistic.
        margins: What counts as no difference.
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
    found = []
    for figure, (best, *_) in scored.items():
        from_reference = {cell: one for (of, cell), one in against_reference.items() if of == figure}
        from_best = {cell: one for (of, cell), one in against_best.items() if of == figure}
        alike = [cell for cell, one in from_best.items() if one.verdict not in _APART]
        leaders = (best.cell_id, *alike) if len(alike) < len(from_best) else ()
        found.append(Standing(figure.task, figure.metric, from_reference, from_best, leaders))
    return found


def _corrected_for_choice(
    table: Mapping[tuple[_Figure, str], Difference], pairs: int
) -> dict[tuple[_Figure, str], Difference]:
    """Bonferroni's correction for all pairs, of which those with the best were picked by their scores."""
    found = dict(table)
    for key, one in table.items():
        if one.p_value is not None:
            p = min(1.0, pairs * one.p_value)
            equivalence = None if one.p_equivalence is None else min(1.0, pairs * one.p_equivalence)
            one = replace(one, p_corrected=p, p_equivalence_corrected=equivalence)
            found[key] = judged(one, p, equivalence, pairs)
    return found


def _figures(records: Sequence[Record]) -> list[_Figure]:
    accuracies = [_Figure(task, "accuracy", ACCURACIES) for task in accuracy_tasks(records)]
    return accuracies + [_Figure(text, name, (name,)) for text in text_tasks(records) for name in _ON_TEXTS]
