"""Bootstrap intervals of scores, and the cells whose score is not significantly below the best.

Items of a task are drawn with replacement, the same for all cells and full precision (Efron's paired bootstrap); mean
losses of a text are redrawn with correlated neighbours (`analysis.serial`). Each draw gives every cell a score; its
interval runs from the 2.5 % to the 97.5 % quantile over draws.

A cell's score is significantly below the best if their difference exceeds the 95 % quantile, over draws, of the largest
standardized deviation of any pair of cells (single-step max-t; Westfall and Young, Resampling-Based Multiple Testing,
1993). This corrects for all pairs of the table and for having picked the best.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.cells import accuracy, accuracy_tasks, stops_early, text_tasks
from slmquant.analysis.intervals import CONFIDENCE, Interval
from slmquant.analysis.scores import Score, ScoreOptions, signed_quadratic
from slmquant.analysis.serial import series_draws
from slmquant.store.record import ItemOutcome, Record

DRAWS = 1000
FEWEST_TEXT_WINDOWS = 4
FEWEST_ROUNDS = 6
"""Rounds needed on an engine; the median of fewer varies more than the bootstrap shows."""

_BLOCK_ELEMENTS = 1 << 22

_Array = NDArray[np.float64]
Answers = Mapping[str, Sequence[ItemOutcome]]


@dataclass(frozen=True)
class ScoreDraws:
    """Score intervals of the cells of one table whose answers were stored.

    Attributes:
        intervals: Cell id → the interval of its score.
        best: The cell with the highest score, then cells not significantly below it. Empty if that is every cell, or
            if a cell has no interval.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    best: tuple[str, ...] = ()


def draw_scores(records: Sequence[Record], answers: Answers, options: ScoreOptions) -> tuple[ScoreDraws, ScoreDraws]:
    """Draws of SLMQ_perf, and of the same with chance-corrected accuracies.

    Args:
        records: Measured cells of one model under one set of conditions.
        answers: Cell id → its per-item answers.
        options: Scoring options.
    """
    reference = next((record for record in records if record.spec.is_reference and record.status == "ok"), None)
    early = reference is None or any(stops_early(reference, str(task)) for task in reference.spec.tasks)
    if reference is None or early:
        return ScoreDraws(), ScoreDraws()
    cells = [record for record in records if record.status == "ok" and not record.spec.is_reference]
    known = {record.cell_id: answers.get(record.cell_id, ()) for record in (reference, *cells)}
    perf: list[_Array] = []
    above: list[_Array] = []
    for task in accuracy_tasks([reference]):
        metric, chance = accuracy(reference, task), reference.metric("chance", task)
        values = _matrix(metric.name, task, known) if metric else None
        if values is None:
            return ScoreDraws(), ScoreDraws()
        drawn = resampled_means(values[1], zlib.crc32(task.encode()))
        perf.append(_ratios(drawn, 0.0))
        above.append(_ratios(drawn, chance.value if chance else np.nan))
    for text in text_tasks([reference]) if options.perplexity else ():
        values = _matrix("nll_mean", text, known)
        if values is None or len(values[0]) < FEWEST_TEXT_WINDOWS or not all(one.isdecimal() for one in values[0]):
            return ScoreDraws(), _summary(above, cells)
        noise = np.random.default_rng(zlib.crc32(text.encode()))
        losses = values[1][1:] - values[1][0]
        perf.append(np.exp(-series_draws(losses, [int(item) for item in values[0]], noise, DRAWS)))
    return _summary(perf, cells), _summary(above, cells)


def infer_interval(score: Score, items: Sequence[ItemOutcome]) -> Interval | None:
    """The interval of SLMQ_infer from rounds that timed the artifact and full precision in alternation.

    Rounds are drawn with replacement and the median of their paired ratios enters each draw; memory and size stay
    fixed. None if the speed was not measured in paired rounds, or in fewer than `FEWEST_ROUNDS`.
    """
    of_task: dict[str, list[float]] = {}
    for outcome in items:
        if "decode_speedup" in outcome.values:
            of_task.setdefault(outcome.task, []).append(outcome.values["decode_speedup"])
    speed = score.ratios.get("tokens per second")
    for ratios in of_task.values():
        if speed is not None and len(ratios) >= FEWEST_ROUNDS and np.isclose(np.median(ratios), speed, rtol=1e-9):
            picked = np.random.default_rng(0).integers(len(ratios), size=(DRAWS, len(ratios)))
            speeds = np.median(np.array(ratios)[picked], axis=1)
            others = sum(ratio**2 for term, ratio in score.ratios.items() if term != "tokens per second")
            drawn = 100 * np.sqrt((speeds**2 + others) / len(score.ratios))
            low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            return Interval(float(low), float(high), CONFIDENCE, "bootstrap")
    return None


def _matrix(name: str, task: str, known: Mapping[str, Sequence[ItemOutcome]]) -> tuple[tuple[str, ...], _Array] | None:
    """(items of a task, values of each cell on them, full precision first); None if a cell lacks an item."""
    of_cells = [
        {outcome.item: outcome.values[name] for outcome in items if outcome.task == task and name in outcome.values}
        for items in known.values()
    ]
    items = tuple(of_cells[0])
    if len(items) < 2 or any(cell.keys() != of_cells[0].keys() for cell in of_cells):
        return None
    return items, np.array([[cell[item] for item in items] for cell in of_cells])


def resampled_means(values: _Array, seed: int) -> _Array:
    """Means over items drawn with replacement; shape `(cells, draws)`."""
    draws, (cells, items) = np.random.default_rng(seed), values.shape
    rows = max(1, _BLOCK_ELEMENTS // (items * cells))
    parts = [
        values[:, draws.integers(items, size=(min(rows, DRAWS - start), items))].mean(axis=2)
        for start in range(0, DRAWS, rows)
    ]
    return np.concatenate(parts, axis=1)


def _ratios(means: _Array, chance: float) -> _Array:
    """Chance-corrected ratio of each cell to full precision; NaN where full precision is not above chance."""
    full = means[0] - chance
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(full > 0, (means[1:] - chance) / full, np.nan)


def _summary(terms: Sequence[_Array], cells: Sequence[Record]) -> ScoreDraws:
    if not terms or not cells:
        return ScoreDraws()
    scores = 100 * signed_quadratic(np.stack(terms))
    if not np.isfinite(scores).all():
        return ScoreDraws()
    low, high = np.quantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    intervals = {
        cell.cell_id: Interval(float(a), float(b), CONFIDENCE, "bootstrap")
        for cell, a, b in zip(cells, low, high, strict=True)
    }
    return ScoreDraws(intervals, _best(scores, [cell.cell_id for cell in cells]))


def _best(scores: _Array, cells: Sequence[str]) -> tuple[str, ...]:
    centre = scores.mean(axis=1)
    largest = np.zeros(scores.shape[1])
    spreads = {}
    for a, b in itertools.combinations(range(len(cells)), 2):
        apart = scores[a] - scores[b]
        spreads[a, b] = spreads[b, a] = spread = float(apart.std())
        if spread > 0:
            largest = np.maximum(largest, np.abs(apart - apart.mean()) / spread)
    critical = float(np.quantile(largest, CONFIDENCE))
    order = sorted(range(len(cells)), key=lambda place: -centre[place])
    first, others = order[0], order[1:]
    alike = [place for place in others if centre[first] - centre[place] <= critical * spreads[first, place]]
    return tuple(cells[place] for place in (first, *alike)) if len(alike) < len(others) else ()
