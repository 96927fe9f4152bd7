"""Early stopping: evaluate only as many items as ranking the cells needs.

All cells answer the items of a task in one random order, round by round. A cell stops once every pair that it belongs
to is decided by the test of `analysis.sequential`. This module is independent of how answers are produced.
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
"""Number of items in the first round."""

GROWTH = 2
"""Each round multiplies the number of items by this: few rounds, and less than twice the items needed."""


@dataclass(frozen=True, order=True)
class Pair:
    """Two cells on one task."""

    task: str
    first: str
    second: str


Answers = Mapping[str, Mapping[str, Sequence[float]]]
"""Task → cell → its answers so far (0 or 1), in the item order shared by all cells."""


def weigh(answers: Answers) -> dict[Pair, Evidence]:
    """Compute the evidence on every pair of cells of each task."""
    return {
        Pair(task, first, second): evidence(of_cell[first], of_cell[second])
        for task, of_cell in answers.items()
        for first, second in itertools.combinations(of_cell, 2)
    }


def decided(weighed: Mapping[Pair, Evidence], confidence: float = CONFIDENCE) -> frozenset[Pair]:
    """The pairs whose better cell is known, at this family-wise confidence.

    Holm's correction covers all pairs of all tasks. The result is valid under any stopping rule, as each p is. A
    decided pair stays decided, because evidence is the largest capital so far.
    """
    corrected = holm({pair: evidence_of_pair.p_value for pair, evidence_of_pair in weighed.items()})
    return frozenset(pair for pair, p in corrected.items() if p <= 1 - confidence)


def undecided(answers: Answers, confidence: float = CONFIDENCE) -> dict[str, tuple[str, ...]]:
    """Task → cells that belong to an undecided pair; fully decided tasks are left out."""
    weighed = weigh(answers)
    open_pairs = weighed.keys() - decided(weighed, confidence)
    waiting = {
        task: tuple(cell for cell in of_cell if any(p.task == task and cell in (p.first, p.second) for p in open_pairs))
        for task, of_cell in answers.items()
    }
    return {task: cells for task, cells in waiting.items() if cells}


def rounds(total: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each round up to `total` items: 50 items, then each round doubles the number so far."""
    start, stop = 0, min(FIRST_ROUND, total)
    while start < total:
        yield start, stop
        start, stop = stop, min(stop * GROWTH, total)


@dataclass(frozen=True)
class Replay:
    """Outcome of early stopping on known answers.

    Attributes:
        items: Task → cell → number of items it would have used.
        available: Task → number of items available.
        ranking: The pairs that would have been decided, with their evidence at that point.
        open_pairs: The pairs left undecided after all items.
    """

    items: Mapping[str, Mapping[str, int]]
    available: Mapping[str, int]
    ranking: Mapping[Pair, Evidence]
    open_pairs: frozenset[Pair]

    @property
    def used(self) -> int:
        """Number of answers used, over all tasks and cells."""
        return sum(sum(of_cell.values()) for of_cell in self.items.values())

    @property
    def saved(self) -> int:
        """Number of answers saved."""
        return sum(self.available[task] * len(of_cell) for task, of_cell in self.items.items()) - self.used


def replay(answers: Answers, confidence: float = CONFIDENCE) -> Replay:
    """Simulate `--until-separated` on answers that are already known.

    Raises:
        ValueError: Cells have different numbers of answers on a task.
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
        ranking={pair: pair_evidence for pair, pair_evidence in weighed.items() if pair in ranked},
        open_pairs=frozenset(weighed.keys() - ranked),
    )


@dataclass(frozen=True)
class EarlyStop:
    """After how many items of a task two cells would have been separated.

    Attributes:
        task: As `str(TaskSpec)`.
        metric: The accuracy metric that was used.
        needed: Items that each cell would have been asked; all of them if the pair stays undecided.
        available: Items that both cells answered.
        better: 0 if the first cell is better, 1 if the second is; None if undecided.
    """

    task: str
    metric: str
    needed: int
    available: int
    better: int | None

    def __str__(self) -> str:
        if self.better is None:
            return f"{self.task}: {self.metric} does not separate A and B after all {self.available} items"
        return (
            f"{self.task}: {'AB'[self.better]} would have been shown to be better in {self.metric} after "
            f"{self.needed} of {self.available} items"
        )


def early_stops(
    first: Sequence[ItemOutcome], second: Sequence[ItemOutcome], confidence: float = CONFIDENCE
) -> list[EarlyStop]:
    """Simulate early stopping for two cells from stored answers.

    Items are taken in the random order in which they were asked, else in a new one. The error is shared by all tasks.
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
    simulated = replay(answers, confidence)
    leaders = {pair.task: evidence.leader for pair, evidence in simulated.ranking.items()}
    return [
        EarlyStop(task, metrics[task], simulated.items[task]["first"], simulated.available[task], leaders.get(task))
        for task in answers
    ]


def _lot(task: str, item: str) -> bytes:
    """Sort key that `bench --until-separated` would have drawn for an item (`index`, or `subtask/index`)."""
    subtask, _, index = item.rpartition("/")
    return item_order_key(0, task, subtask or task, index)


def _length(task: str, of_cell: Mapping[str, Sequence[float]]) -> int:
    lengths = {len(values) for values in of_cell.values()}
    if len(lengths) != 1:
        raise ValueError(f"cells have {sorted(lengths)} answers on {task!r}; expected the same items for every cell")
    return lengths.pop()
