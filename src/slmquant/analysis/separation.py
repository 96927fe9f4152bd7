"""Asking only as many items as the ranking of some cells needs.

All cells answer the items of a task in one random order, round by round. A cell stops once every pair that it belongs
to is decided, by the test of `analysis.sequential`; nothing here knows where answers come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.cells import ACCURACIES
from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.multiple import holm
from slmquant.analysis.sequential import Evidence, evidence
from slmquant.item_order import item_order_key
from slmquant.store.record import ItemOutcome, task_name

FIRST_ROUND = 50
"""Items of the first round."""

GROWTH = 2
"""Each round brings the number of items to this multiple: few rounds, and never twice the items that were needed."""


@dataclass(frozen=True, order=True)
class Pair:
    """Two cells on one task."""

    task: str
    first: str
    second: str


Answers = Mapping[str, Mapping[str, Sequence[float]]]
"""Task → cell → its answers so far, 0 or 1, in the order that all cells share."""


def weigh(answers: Answers) -> dict[Pair, Evidence]:
    """The evidence on every pair of cells, task by task."""
    return {
        Pair(task, first, second): evidence(of_cell[first], of_cell[second])
        for task, of_cell in answers.items()
        for first, second in itertools.combinations(of_cell, 2)
    }


def decided(weighed: Mapping[Pair, Evidence], confidence: float = CONFIDENCE) -> frozenset[Pair]:
    """The pairs whose better cell is known, all of them together with this confidence.

    The error is spent over all pairs of all tasks by Holm's correction. It stays valid under any stopping because
    each p does; pairs that were decided once remain so, as capital is counted at its largest.
    """
    corrected = holm({pair: found.p_value for pair, found in weighed.items()})
    return frozenset(pair for pair, p in corrected.items() if p <= 1 - confidence)


def undecided(answers: Answers, confidence: float = CONFIDENCE) -> dict[str, tuple[str, ...]]:
    """Task → cells that some pair of the task still waits for; a task that is settled is left out."""
    weighed = weigh(answers)
    open_pairs = weighed.keys() - decided(weighed, confidence)
    waiting = {
        task: tuple(cell for cell in of_cell if any(p.task == task and cell in (p.first, p.second) for p in open_pairs))
        for task, of_cell in answers.items()
    }
    return {task: cells for task, cells in waiting.items() if cells}


def rounds(total: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each round until `total` items are used: 50 items, then as many again as were used so far."""
    start, stop = 0, min(FIRST_ROUND, total)
    while start < total:
        yield start, stop
        start, stop = stop, min(stop * GROWTH, total)


@dataclass(frozen=True)
class Replay:
    """What stopping early would have come to.

    Attributes:
        items: Task → cell → items it would have used.
        available: Task → items there were.
        ranking: The pairs that would have been decided, with their evidence at that moment.
        open_pairs: The pairs that all items together do not decide.
    """

    items: Mapping[str, Mapping[str, int]]
    available: Mapping[str, int]
    ranking: Mapping[Pair, Evidence]
    open_pairs: frozenset[Pair]

    @property
    def used(self) -> int:
        """Answers that would have been asked for, over all tasks and cells."""
        return sum(sum(of_cell.values()) for of_cell in self.items.values())

    @property
    def saved(self) -> int:
        """Answers that would not have been asked for."""
        return sum(self.available[task] * len(of_cell) for task, of_cell in self.items.items()) - self.used


def replay(answers: Answers, confidence: float = CONFIDENCE) -> Replay:
    """Stop early on answers that are all known: what `--until-separated` would have done.

    Raises:
        ValueError: Cells answered different numbers of items of a task.
    """
    available = {task: _length(task, of_cell) for task, of_cell in answers.items()}
    known: dict[str, dict[str, Sequence[float]]] = {t: dict.fromkeys(of_cell, ()) for t, of_cell in answers.items()}
    waiting = {task: tuple(of_cell) for task, of_cell in answers.items()}
    for stops in itertools.zip_longest(*([stop for _, stop in rounds(n)] for n in available.values())):
        for task, stop in zip(available, stops, strict=True):
            for cell in waiting.get(task, ()) if stop is not None else ():
                known[task][cell] = answers[task][cell][:stop]
        waiting = undecided(known, confidence)
    weighed = weigh(known)
    ranked = decided(weighed, confidence)
    return Replay(
        items={task: {cell: len(values) for cell, values in of_cell.items()} for task, of_cell in known.items()},
        available=available,
        ranking={pair: found for pair, found in weighed.items() if pair in ranked},
        open_pairs=frozenset(weighed.keys() - ranked),
    )


@dataclass(frozen=True)
class EarlyStop:
    """After how many items of a task two cells would have been told apart.

    Attributes:
        task: As `str(TaskSpec)`.
        metric: What items were right or wrong by.
        needed: Items that would have been asked of each; all of them where that decides nothing.
        available: Items that both answered.
        better: 0 where the first is the better one, 1 where the second is; None where nothing is decided.
    """

    task: str
    metric: str
    needed: int
    available: int
    better: int | None

    def __str__(self) -> str:
        if self.better is None:
            return f"{self.task}: {self.metric} does not tell them apart after all {self.available} items"
        return (
            f"{self.task}: {'AB'[self.better]} would have been known to be better in {self.metric} after "
            f"{self.needed} of {self.available} items"
        )


def early_stops(
    first: Sequence[ItemOutcome], second: Sequence[ItemOutcome], confidence: float = CONFIDENCE
) -> list[EarlyStop]:
    """What stopping early would have come to for two cells, from answers that were kept.

    Items are taken in a random order; where they were asked in one, in that. The error is spent over all tasks.
    """
    answers: dict[str, dict[str, Sequence[float]]] = {}
    metrics = {}
    for task in dict.fromkeys(outcome.task for outcome in first):
        a = {outcome.item: outcome.values for outcome in first if outcome.task == task}
        b = {outcome.item: outcome.values for outcome in second if outcome.task == task}
        common = [item for item in a if item in b]
        if "@" not in task:
            common.sort(key=lambda item: _lot(task_name(task), item))
        name = next((name for name in ACCURACIES if all(name in a[item] and name in b[item] for item in common)), None)
        if name is None or not common:
            continue
        values: dict[str, Sequence[float]] = {
            "first": [a[item][name] for item in common],
            "second": [b[item][name] for item in common],
        }
        if all(value in (0, 1) for series in values.values() for value in series):
            answers[task], metrics[task] = values, name
    found = replay(answers, confidence)
    leaders = {pair.task: evidence.leader for pair, evidence in found.ranking.items()}
    return [
        EarlyStop(task, metrics[task], found.items[task]["first"], found.available[task], leaders.get(task))
        for task in answers
    ]


def _lot(task: str, item: str) -> bytes:
    """What `bench --until-separated` would have drawn for an item, which a task with parts calls `part/index`."""
    subtask, _, index = item.rpartition("/")
    return item_order_key(0, task, subtask or task, index)


def _length(task: str, of_cell: Mapping[str, Sequence[float]]) -> int:
    lengths = {len(values) for values in of_cell.values()}
    if len(lengths) != 1:
        raise ValueError(f"cells answered {sorted(lengths)} items of {task!r}; give the same items of each")
    return lengths.pop()
