"""Averages of accuracy do not rank what divergence ranks.

Cells of one scheme are put in the order of their divergence. Of the neighbours that divergence tells apart by more than
a tenth, the effect is the share that the mean accuracy over the tasks tells apart, too, both at 5 % and paired, window
by window and item by item. Neighbours share a cell, so their number overstates the evidence somewhat.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

from slmquant.analysis.cells import accuracy, accuracy_tasks
from slmquant.analysis.difference import FEWEST_WINDOWS
from slmquant.analysis.endpoints import SIGNIFICANCE
from slmquant.analysis.means import IndependentMeans
from slmquant.analysis.pairs import Pairs
from slmquant.analysis.serial import series_mean
from slmquant.principles.common.cells import DIVERGENCE, Cell, ModelCells, Text
from slmquant.principles.common.contract import TENTH, Finding, Found, Need, Prediction, Principle, Scale
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.needs import need
from slmquant.principles.common.shares import Share
from slmquant.store.record import Record

SUGGESTED = ("rtn/W4A16g64", "gptq/W4A16g64", "gptq_mse/W4A16g64")


class ToldByAccuracy:
    """The share of neighbours by divergence that the mean accuracy tells apart."""

    scale: Scale = "share"

    def of(self, model: ModelCells, others: Sequence[ModelCells] = ()) -> Found:
        """The share in one model."""
        del others
        findings = {
            one.cells: one for text in model.texts for a, b in _neighbours(text) for one in _compared(text, a, b)
        }
        told = [finding for finding in findings.values() if finding.interval and 0 not in finding.interval]
        return Found(
            tuple(findings.values()),
            Share(len(told), len(findings)) if findings else None,
            len(findings),
            "pairs",
            () if findings else (_need(model),),
        )


def _neighbours(text: Text) -> Iterator[tuple[Record, Record]]:
    """Neighbours by divergence among the cells of a scheme, the closer to full precision first."""
    for records in text.alike():
        for scheme in dict.fromkeys(cell.scheme for cell in records):
            measured = [
                (metric.value, record.cell_id, record)
                for cell, record in records.items()
                if cell.scheme == scheme and (metric := record.metric(DIVERGENCE, text.task)) is not None
            ]
            yield from ((a, b) for (*_, a), (*_, b) in pairwise(sorted(measured)))


def _compared(text: Text, a: Record, b: Record) -> Iterator[Finding]:
    """The difference of the mean accuracies, if both cells have some and divergence tells them apart."""
    tasks = accuracy_tasks([a, b])
    if not tasks:
        return
    first, second = text.divergences(a), text.divergences(b)
    common = [position for position in first if position in second and min(first[position], second[position]) > 0]
    if len(common) < FEWEST_WINDOWS:
        return
    ratio = series_mean([math.log(second[p] / first[p]) for p in common], positions=common)
    p_value = ratio.p_value(TENTH)
    if p_value is None or p_value >= SIGNIFICANCE or ratio.mean < TENTH:
        return
    estimates = []
    for task in tasks:
        metric = accuracy(a, task)
        answers = text.read_items(a.cell_id), text.read_items(b.cell_id)
        pairs = None if metric is None else Pairs.of(metric, *answers)
        estimate = pairs.estimate() if pairs and pairs.complete else None
        if pairs is None or estimate is None or estimate.stderr is None:
            return
        estimates.append((estimate.mean, estimate.stderr, len(pairs.items)))
    means, errors, counts = zip(*estimates, strict=True)
    mean = IndependentMeans(statistics.fmean(means), math.hypot(*errors) / len(errors))
    label = f"{_name(a)} → {_name(b)}"
    yield Finding(label, ", ".join(tasks), (a.cell_id, b.cell_id), mean.mean, mean.interval(), sum(counts))


def _name(record: Record) -> Cell:
    return Cell(record.spec.method, record.spec.scheme)


def _need(model: ModelCells) -> Need:
    return need(model, [Cell.of(cell) for cell in SUGGESTED], tasks=("arc_easy:100@0", "piqa:100@0", "hellaswag:60@0"))


PRINCIPLE = Principle(
    rule="Averages of accuracy are noise at this size: they tell apart less than half of what divergence tells apart.",
    source="ours; cf. Dutta et al., 2024, arXiv 2407.09141, on accuracies that hide changed answers",
    prediction=Prediction(
        "share of pairs that the mean accuracy tells apart, of those that divergence does", "below", 0.5
    ),
    evidence=ToldByAccuracy(),
    if_it_holds=(
        Decision("note", Candidates(), "choose by divergence; accuracies of so few items do not rank methods"),
    ),
)
