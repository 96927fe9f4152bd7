"""Tests on pairs: the same items, answered by two models."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr


@dataclass(frozen=True)
class PairedTest:
    """How one series differs from another on the same items.

    Attributes:
        difference: Mean of second minus first.
        stderr: Standard error of that mean; None for a single pair.
        p_value: Two-sided probability of a difference this large by chance alone: McNemar's exact test where
            every value is 0 or 1, else Student's t. None where there is no standard error.
        n: Number of pairs.
    """

    difference: float
    stderr: float | None
    p_value: float | None
    n: int


@dataclass(frozen=True)
class Flips:
    """Answers that changed from one model to another, on the same items.

    Attributes:
        to_wrong: Items that only the first got right.
        to_right: Items that only the second got right.
        n: Items in all.
    """

    to_wrong: int
    to_right: int
    n: int


def flips(first: Sequence[float], second: Sequence[float]) -> Flips | None:
    """How many answers flipped, in the same order of items; None where an answer is neither right, 1, nor wrong, 0."""
    if not all(value in (0, 1) for value in (*first, *second)):
        return None
    pairs = list(zip(first, second, strict=True))
    return Flips(pairs.count((1, 0)), pairs.count((0, 1)), len(pairs))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: a fair coin's chance to split the disagreements so unevenly.

    Args:
        only_first: Items that only the first model got right.
        only_second: Items that only the second model got right.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << n))


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Compare two series of per-item values, in the same order of items.

    Raises:
        ValueError: The series are empty or differ in length.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values make no pairs; give the same items to both")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    n, mean = len(differences), statistics.fmean(differences)
    if n == 1:
        return PairedTest(mean, None, None, n)
    stderr = statistics.stdev(differences) / math.sqrt(n)
    flipped = flips(first, second)
    p_value = mcnemar_exact(flipped.to_wrong, flipped.to_right) if flipped else student_p(mean, stderr, n - 1)
    return PairedTest(mean, stderr, p_value, n)


def normal_p(difference: float, stderr: float) -> float:
    """Two-sided p of a difference under the normal approximation."""
    if stderr == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * statistics.NormalDist().cdf(-abs(difference) / stderr)


def student_p(difference: float, stderr: float, freedom: float) -> float:
    """Two-sided p of a mean difference under Student's t with so many degrees of freedom, whole or not."""
    if stderr == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * float(stdtr(freedom, -abs(difference) / stderr))
