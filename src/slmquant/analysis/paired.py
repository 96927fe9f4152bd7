"""The two distributions that tests of a difference rest on, and what becomes of right and wrong answers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr


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
