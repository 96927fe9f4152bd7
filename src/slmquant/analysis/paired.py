"""p-values of the normal and Student's t distributions, and counts of flipped answers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr


@dataclass(frozen=True)
class Flips:
    """Answers that changed between two models on the same items.

    Attributes:
        to_wrong: Items that only the first got right.
        to_right: Items that only the second got right.
        n: Number of items.
    """

    to_wrong: int
    to_right: int
    n: int


def flips(first: Sequence[float], second: Sequence[float]) -> Flips | None:
    """Count flipped answers, in the same item order; None if any answer is neither 1 (right) nor 0 (wrong)."""
    if not all(value in (0, 1) for value in (*first, *second)):
        return None
    pairs = list(zip(first, second, strict=True))
    return Flips(pairs.count((1, 0)), pairs.count((0, 1)), len(pairs))


def normal_p(difference: float, stderr: float) -> float:
    """Two-sided p of a difference under the normal distribution."""
    if stderr == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * statistics.NormalDist().cdf(-abs(difference) / stderr)


def student_p(difference: float, stderr: float, freedom: float) -> float:
    """Two-sided p of a mean difference under Student's t; `freedom` need not be whole."""
    if stderr == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * float(stdtr(freedom, -abs(difference) / stderr))
