"""Two shares of right answers on the same items: McNemar's mid-p test, and the interval that inverts it.

Only items on which two cells disagree distinguish them. Of `m` disagreements among `n` items, the second cell is right
in `c`; if both cells were equally good, each disagreement would be a fair coin flip (McNemar, Psychometrika 12, 1947).
The mid-p counts only half of the probability of the observed split. Its error rate is close to the nominal level, where
the exact p is about half of it (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013).

The difference of the shares is d = π (2θ − 1), with π the share of items on which the cells disagree and θ the share of
these that the second has right. The two counts are binomial: m of n with probability π, then c of m with θ. Each has a
mid-p, with normal quantiles z_π and z_θ. A difference d is rejected at z if z_π² + z_θ² > z² for every (π, θ) that
gives d (a profile over both). At d = 0, θ is ½ for every π, so the smallest z_π is 0 and McNemar's mid-p remains: the
interval excludes 0 exactly if the p is below 1 − confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri

from slmquant.analysis.intervals import CONFIDENCE, Interval, quantile

__all__ = ["MatchedShares", "mcnemar_mid_p"]

_Array = NDArray[np.float64]

_ANGLES = 33
"""Points on the border of the profile; an odd number includes the point where only θ differs."""

_SHARES = 2000
"""Grid points of π when a p-value is minimized over it."""


def mcnemar_mid_p(only_first: int, only_second: int) -> float:
    """Two-sided mid-p of McNemar's test.

    The probability that a fair coin splits the disagreements more unevenly; equally uneven splits count half.

    Args:
        only_first: Items that only the first model got right.
        only_second: Items that only the second model got right.
    """
    tail = _mid_cdf(min(only_first, only_second), only_first + only_second, np.array([0.5]))
    return min(1.0, 2 * float(tail[0]))


@dataclass(frozen=True)
class MatchedShares:
    """Counts of right answers of two cells on the same items.

    Attributes:
        only_first: Items that only the first got right.
        only_second: Items that only the second got right.
        n: Number of items.

    Raises:
        ValueError: The counts are inconsistent.
    """

    only_first: int
    only_second: int
    n: int

    def __post_init__(self) -> None:
        b, c = self.only_first, self.only_second
        if min(b, c) < 0 or self.n < 1 or b + c > self.n:
            raise ValueError(f"{b} and {c} disagreements among {self.n} items; expected at most {self.n}")

    @property
    def mean(self) -> float:
        """Share of right answers of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.n

    @property
    def stderr(self) -> float | None:
        """Standard error of `mean`; None for a single item."""
        if self.n < 2:
            return None
        flipped = (self.only_first + self.only_second) / self.n
        return math.sqrt(max(0.0, flipped - self.mean**2) / (self.n - 1))

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p of the difference `null`, between −1 and 1."""
        if null == 0:
            return mcnemar_mid_p(self.only_first, self.only_second)
        if null < 0:
            return MatchedShares(self.only_second, self.only_first, self.n).p_value(-null)
        m, c = self.only_first + self.only_second, self.only_second
        # θ = (1 + null / π) / 2 is 1 at π = null, where the second is right in every disagreement.
        flipped = np.linspace(null, 1.0, _SHARES)
        z_flipped = ndtri(_mid_cdf(m, self.n, flipped))
        z_second = ndtri(_mid_cdf(c, m, (1 + null / flipped) / 2)) if m else np.zeros(_SHARES)
        squares = np.nan_to_num(z_flipped, posinf=40, neginf=-40) ** 2
        squares += np.nan_to_num(z_second, posinf=40, neginf=-40) ** 2
        return 2 * float(ndtr(-math.sqrt(squares.min())))

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Every difference whose p is 1 − confidence or more."""
        low = -_furthest(self.only_second, self.only_first, self.n, confidence)
        high = _furthest(self.only_first, self.only_second, self.n, confidence)
        return Interval(low, high, confidence, "matched pairs")

    def smallest_seen(self, significance: float, power: float) -> float | None:
        """The smallest difference detectable on `n` items with this power; None if none is.

        By Connor, Biometrics 43 (1987), with the observed share of disagreements, or the difference itself if that is
        larger: a difference of d takes a share of at least d.

        Args:
            significance: Significance level.
            power: Probability of finding such a difference.
        """
        z_alpha, z_beta = quantile(1 - significance), float(ndtri(power))
        seen = (self.only_first + self.only_second) / self.n

        def shows(d: float) -> bool:
            flipped = max(seen, d)
            reach = z_alpha * math.sqrt(flipped) + z_beta * math.sqrt(max(0.0, flipped - d * d))
            return reach <= math.sqrt(self.n) * d

        if not shows(1.0):
            return None
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if shows(middle) else (middle, high)
        return high


def _mid_cdf(count: int, n: int, share: _Array) -> _Array:
    """Binomial P(X < count) + P(X = count) / 2 of `n` trials, for each share."""
    if n == 0:
        return np.full(len(share), 0.5)
    up_to = np.asarray(bdtr(count, n, share))
    below = np.asarray(bdtr(count - 1, n, share)) if count else np.zeros(len(share))
    return np.asarray((up_to + below) / 2)


def _limits(count: int, n: int, z: _Array) -> _Array:
    """The share at which the mid-p of `count` of `n` equals the normal tail beyond z, for each z."""
    target = ndtr(-z)
    low, high = np.zeros(len(z)), np.ones(len(z))
    for _ in range(36):
        middle = (low + high) / 2
        too_small = _mid_cdf(count, n, middle) > target
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    # If the count is 0 or n, the share may lie at its border, 0 or 1.
    return np.asarray(np.where(z < 0, low, high))


def _furthest(only_first: int, only_second: int, n: int, confidence: float) -> float:
    """The largest difference in favour of the second cell that is not rejected."""
    z, flips = quantile(confidence), only_first + only_second
    angles = np.linspace(0.0, math.pi, _ANGLES)
    flipped = _limits(flips, n, z * np.cos(angles))
    second = _limits(only_second, flips, z * np.sin(angles)) if flips else np.ones(_ANGLES)
    return float((flipped * (2 * second - 1)).max())
