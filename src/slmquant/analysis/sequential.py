"""Stopping as soon as it is clear: tests and intervals that hold whenever one looks at them.

Two cells answer the same items in a fixed random order. Only items on which they disagree tell them apart, and if
both were equally good each disagreement would be a fair coin. A gambler who starts with 1 and bets on that coin
cannot expect to win, whatever he does: the chance that his capital ever reaches 1/α is at most α (Ville, "Étude
critique de la notion de collectif", 1939). So his capital is evidence that may be looked at after every item, and
acted on at once (Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 38, 2023, arXiv 2210.01948; Grünwald, de Heide and Koolen, "Safe testing", JRSS B 86, 2024,
arXiv 1906.07801).

The bet is the mixture over all biased coins under Jeffreys' prior, which needs no tuning (Robbins, Annals of
Mathematical Statistics 41, 1970; Krichevsky and Trofimov, IEEE Transactions on Information Theory 27, 1981). After b
disagreements for the first cell and c for the second the capital is ::

    E = 2^(b+c) · B(b + 1/2, c + 1/2) / B(1/2, 1/2)

What it promises. For items drawn independently: the probability that two equal cells are ever told apart, or that the
worse one is ever declared the better, is at most α. The latter since E while the first leads is at most the capital of
the gambler who mixes only over coins that favour it, and he cannot win where the second is the better one. For a finite
set of items in random order, the former alone: this gambler always bets on the leader, and where both have equally many
wins in the whole set the leader has fewer of them left.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.intervals import CONFIDENCE, Interval
from slmquant.analysis.multiple import holm

FIRST_ROUND = 50
"""Items of the first round."""

GROWTH = 2
"""Each round brings the number of items to this multiple: few rounds, and never twice the items that were needed."""

_TIGHTEST_AT = 100
"""Items at which a `mean_sequence` is made narrowest; it holds for every other number too."""


def log_capital(only_first: int, only_second: int) -> float:
    """Natural logarithm of E, the evidence against two cells being equally good.

    Args:
        only_first: Items that only the first got right.
        only_second: Items that only the second got right.
    """
    flips = only_first + only_second
    return (
        flips * math.log(2)
        + math.lgamma(only_first + 0.5)
        + math.lgamma(only_second + 0.5)
        - math.lgamma(flips + 1)
        - math.log(math.pi)
    )


@dataclass(frozen=True)
class Evidence:
    """How clearly two cells differ on the items that both answered.

    Attributes:
        log_e: The largest capital so far, as a natural logarithm; never below 0, with which the gambler starts.
        leader: Who led when it was largest: 0 the first, 1 the second, None where nothing was won.
        at: After how many items it was largest.
        items: Items that both answered.
    """

    log_e: float
    leader: int | None
    at: int
    items: int

    @property
    def p_value(self) -> float:
        """1/E: a two-sided p that holds however it was decided to stop."""
        return math.exp(-self.log_e)


def evidence(first: Sequence[float], second: Sequence[float]) -> Evidence:
    """Weigh two series of answers, 0 or 1, to the same items in their random order.

    Where one cell answered fewer items, the items that both answered are weighed: the beginning of the order.

    Raises:
        ValueError: An answer is neither 0 nor 1.
    """
    best, leader, at = 0.0, None, 0
    counts = [0, 0]
    items = min(len(first), len(second))
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a not in (0, 1) or b not in (0, 1):
            raise ValueError(f"answers {a} and {b} to item {index}; expected 0 or 1")
        if a == b:
            continue
        counts[0 if a > b else 1] += 1
        log_e = log_capital(*counts)
        if log_e > best and counts[0] != counts[1]:
            best, leader, at = log_e, int(counts[1] > counts[0]), index + 1
    return Evidence(best, leader, at, items)


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


def _length(task: str, of_cell: Mapping[str, Sequence[float]]) -> int:
    lengths = {len(values) for values in of_cell.values()}
    if len(lengths) != 1:
        raise ValueError(f"cells answered {sorted(lengths)} items of {task!r}; give the same items of each")
    return lengths.pop()


def share_sequence(right: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a share that holds for every `n` at once, so also where the data decided when to stop.

    The shares against which the mixture gambler of this module, playing a coin of that bias, has not reached
    1/(1 − confidence).

    Raises:
        ValueError: There is no item, or more right than asked.
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} of {n} items right; expected 0 to n of at least one item")
    mixture = math.lgamma(right + 0.5) + math.lgamma(n - right + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
    limit = mixture + math.log(1 - confidence)

    def excluded(share: float) -> bool:
        likelihood = (right * math.log(share) if right else 0.0) + (
            (n - right) * math.log1p(-share) if right < n else 0.0
        )
        return likelihood <= limit

    middle = right / n
    low = _edge(excluded, 0.0, middle) if right else 0.0
    high = _edge(excluded, 1.0, middle) if right < n else 1.0
    return Interval(low, high, confidence, "any time")


def _edge(excluded: Callable[[float], bool], outer: float, inner: float) -> float:
    """Where exclusion ends between `outer`, which is excluded, and `inner`, which is not; on the outer side."""
    for _ in range(60):
        middle = (outer + inner) / 2
        if excluded(middle):
            outer = middle
        else:
            inner = middle
    return outer


def mean_sequence(values: Iterable[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Interval of a mean, of a paired difference for instance, that holds for every number of items at once.

    An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit
    theory and asymptotic confidence sequences", Annals of Statistics 52, 2024, arXiv 2103.06476, theorem 2.2)::

        mean ± s · sqrt( 2 (nρ² + 1) / (n²ρ²) · log( sqrt(nρ² + 1) / α ) )

    None for fewer than two values.
    """
    known = list(values)
    n, alpha = len(known), 1 - confidence
    if n < 2:
        return None
    spent = -2 * math.log(alpha)
    rho_squared = (spent + math.log(spent + 1)) / _TIGHTEST_AT
    grown = n * rho_squared + 1
    reach = statistics.stdev(known) * math.sqrt(2 * grown / (n**2 * rho_squared) * math.log(math.sqrt(grown) / alpha))
    mean = statistics.fmean(known)
    return Interval(mean - reach, mean + reach, confidence, "any time")
