"""What is known of a difference: its estimate, and one test that gives both the p and the interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from slmquant.analysis.intervals import CONFIDENCE, Interval, normal, quantile, student
from slmquant.analysis.paired import normal_p, student_p

__all__ = ["FEWEST_TO_RESAMPLE", "BootstrapMean", "Estimate", "IndependentMeans", "equivalence_p", "smallest_seen"]

RESAMPLES = 4999
"""Of the bootstrap; with one more, a whole number of them lies outside an interval."""

FEWEST_TO_RESAMPLE = 20
"""Items from which on the bootstrap is used; for fewer Student's t."""

_BLOCK_ELEMENTS = 1 << 20
"""Indices drawn at a time."""


class Estimate(Protocol):
    """A difference of two figures, and the test of it."""

    @property
    def mean(self) -> float:
        """The difference, second minus first."""

    @property
    def stderr(self) -> float | None:
        """Its standard error; None where it is not known."""

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Every difference that the test does not reject; None where there is no test."""

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided p of the difference `null`; None where there is no test."""


def equivalence_p(estimate: Estimate, margin: float) -> float | None:
    """The p of "the difference is at least `margin`, in either direction": two one-sided tests (Schuirmann 1987).

    The larger of the two, each half of the two-sided p of the same test as that of no difference. None where there is
    no test.
    """
    above, below = estimate.p_value(-margin), estimate.p_value(margin)
    if above is None or below is None:
        return None
    return max(above, below) / 2 if abs(estimate.mean) < margin else 1.0


def smallest_seen(stderr: float | None, freedom: float | None, significance: float, power: float) -> float | None:
    """The smallest true difference that a mean with this error shows with this power; None where the error is unknown.

    Args:
        stderr: Standard error of the mean.
        freedom: Degrees of freedom of that; None where it is known exactly.
        significance: Below which a p counts.
        power: Probability with which such a difference is to be found.
    """
    if stderr is None:
        return None
    if freedom is None:
        return stderr * (quantile(1 - significance) + float(ndtri(power)))
    return stderr * float(stdtrit(freedom, 1 - significance / 2) + stdtrit(freedom, power))


@dataclass(frozen=True)
class IndependentMeans:
    """Two figures that were not measured on the same items, or whose items are not at hand.

    Attributes:
        mean: Second minus first.
        stderr: Standard error of that: an upper bound where the items were the same.
        freedom: Degrees of freedom; None for many items, where the error is as good as known.
    """

    mean: float
    stderr: float
    freedom: float | None = None

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """By Student's t, or the normal distribution."""
        if self.freedom is None:
            return normal(self.mean, self.stderr, confidence)
        return student(self.mean, self.stderr, self.freedom + 1, confidence)

    def p_value(self, null: float = 0.0) -> float | None:
        """By the same."""
        if self.freedom is None:
            return normal_p(self.mean - null, self.stderr)
        return student_p(self.mean - null, self.stderr, self.freedom)


@dataclass(frozen=True)
class BootstrapMean:
    """The mean of independent values, such as paired differences of items that are neither right nor wrong.

    The bootstrap of Student's t (Efron, "Nonparametric standard errors and confidence intervals", Canadian Journal of
    Statistics 9, 1981): each resample's mean over its own error says how far t strays from 0 in samples of such
    values. A difference is rejected where t is rejected both by the two tails apart (Hall, Annals of Statistics 16,
    1988), which holds for skewed values, and by |t| (Hall, JRSS B 50, 1988), which holds for heavy tails on both sides.
    The p is the larger of the two and the interval the union. Fewer than `FEWEST_TO_RESAMPLE` values go by Student's t.

    No sample tells of jumps that it does not hold: with jumps in 3 % of items, intervals from 20 or 50 items cover some
    87 %, and from 200 on 95 %.

    Attributes:
        values: One for each item, two or more.
        seed: Of the resamples.
        resamples: How many are drawn.
    """

    values: tuple[float, ...]
    seed: int = 0
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"{len(self.values)} values have no standard error; give two or more")

    @classmethod
    def of(cls, values: Sequence[float]) -> BootstrapMean:
        """Of any sequence."""
        return cls(tuple(map(float, values)))

    @cached_property
    def mean(self) -> float:
        """The mean of the values."""
        return float(np.mean(self.values))

    @cached_property
    def stderr(self) -> float:
        """Its standard error."""
        return float(np.std(self.values, ddof=1) / math.sqrt(len(self.values)))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the error."""
        return len(self.values) - 1.0

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """None where all values are alike, or so nearly that resamples say nothing of one side."""
        if self.stderr == 0:
            return None
        if len(self.values) < FEWEST_TO_RESAMPLE:
            return student(self.mean, self.stderr, len(self.values), confidence)
        rejected = 1 - confidence
        tail, both = (max(1, math.ceil(share * (self.resamples + 1) - 1e-9) - 1) for share in (rejected / 2, rejected))
        furthest = float(np.sort(np.abs(self._strayed))[-both])
        low = self.mean - self.stderr * max(furthest, float(self._strayed[-tail]))
        high = self.mean - self.stderr * min(-furthest, float(self._strayed[tail - 1]))
        return Interval(low, high, confidence, "bootstrap") if math.isfinite(low) and math.isfinite(high) else None

    def p_value(self, null: float = 0.0) -> float | None:
        """At least 2 / (resamples + 1); None where all values are alike."""
        if self.stderr == 0:
            return None
        if len(self.values) < FEWEST_TO_RESAMPLE:
            return student_p(self.mean - null, self.stderr, self.freedom)
        t = (self.mean - null) / self.stderr
        above, below = np.count_nonzero(self._strayed >= t), np.count_nonzero(self._strayed <= t)
        further = np.count_nonzero(np.abs(self._strayed) >= abs(t))
        apart = 2 * (min(above, below) + 1) / (self.resamples + 1)
        return min(1.0, max(apart, (further + 1) / (self.resamples + 1)))

    @cached_property
    def _strayed(self) -> NDArray[np.float64]:
        """The t of each resample against the mean of the sample, in order."""
        x = np.asarray(self.values)
        n, draws = len(x), np.random.default_rng(self.seed)
        found = np.empty(self.resamples)
        rows = max(1, _BLOCK_ELEMENTS // n)
        for start in range(0, self.resamples, rows):
            drawn = x[draws.integers(n, size=(min(rows, self.resamples - start), n))]
            off = drawn.mean(axis=1) - self.mean
            error = drawn.std(axis=1, ddof=1) / math.sqrt(n)
            with np.errstate(divide="ignore", invalid="ignore"):
                found[start : start + len(drawn)] = np.where(off == 0, 0.0, off / error)
        return np.sort(found)
