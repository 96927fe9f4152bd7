"""How far a figure may lie from the truth: intervals for shares, means and paired differences.

Every interval here is for a sample whose size was fixed in advance; where the data decided when to stop, see
`analysis.sequential`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from slmquant.store.record import Metric

CONFIDENCE = 0.95
"""Share of such intervals that hold the truth."""

RESAMPLES = 2000
"""Of the bootstrap: the ends of a 95 % interval then rest on some 50 resamples each."""

_MANY = 500
"""Values from which on Student's t and the normal distribution are the same within half a percent."""

_BLOCK_ELEMENTS = 1 << 20
"""Indices drawn at a time."""

Kind = Literal["wilson", "normal", "student", "log-normal", "log-student", "matched pairs", "bootstrap", "any time"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end, in the unit of the figure.
        high: Upper end.
        confidence: Share of such intervals that hold the truth.
        kind: How it was made.
    """

    low: float
    high: float
    confidence: float
    kind: Kind

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def rescaled(self, zero: float, unit: float) -> Interval:
        """The interval of (figure − zero) / unit, for a positive unit that is known exactly."""
        return Interval((self.low - zero) / unit, (self.high - zero) / unit, self.confidence, self.kind)


def quantile(confidence: float) -> float:
    """How many standard errors a two-sided normal interval reaches to either side.

    Raises:
        ValueError: The confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(share: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share of `n` independent items (JASA 22, 1927).

    It stays within [0, 1] and has a width where all items or none are right, unlike the normal one.

    Raises:
        ValueError: There is no item, or the share is not between 0 and 1.
    """
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"a share of {share} of {n} items; expected 0 to 1 of at least one item")
    z = quantile(confidence)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Exact at the borders, where rounding would leave the share itself outside.
    return Interval(min(share, max(0.0, centre - reach)), max(share, min(1.0, centre + reach)), confidence, "wilson")


def normal(value: float, stderr: float, confidence: float = CONFIDENCE) -> Interval:
    """`value` plus and minus so many standard errors."""
    reach = quantile(confidence) * stderr
    return Interval(value - reach, value + reach, confidence, "normal")


def student(value: float, stderr: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """`value` plus and minus so many standard errors as Student's t says for a mean of `n` values."""
    reach = student_quantile(n, confidence) * stderr
    return Interval(value - reach, value + reach, confidence, "student")


def student_quantile(n: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors a two-sided interval of a mean of `n` values reaches to either side (Student's t).

    Args:
        n: One more than the degrees of freedom, which need not be whole.
        confidence: Share of such intervals that hold the truth.

    Raises:
        ValueError: There is less than one degree of freedom, or the confidence is not between 0 and 1.
    """
    if n < 2:
        raise ValueError(f"{n} values have no standard error; give two or more")
    quantile(confidence)  # refuses what is no confidence
    return float(stdtrit(n - 1, (1 + confidence) / 2))


def in_logarithm(value: float, stderr: float, n: float | None = None, confidence: float = CONFIDENCE) -> Interval:
    """An interval that is symmetric in the logarithm: of a perplexity, whose loss is the mean that was taken.

    Args:
        value: The perplexity.
        stderr: Its standard error.
        n: Windows that this rests on; None for many.
        confidence: Share of such intervals that hold the truth.

    Raises:
        ValueError: The value is not positive.
    """
    if value <= 0:
        raise ValueError(f"{value} has no logarithm; give a positive value")
    reach = quantile(confidence) if n is None else student_quantile(n, confidence)
    factor = math.exp(reach * stderr / value)
    return Interval(value / factor, value * factor, confidence, "log-normal" if n is None else "log-student")


def matched_pairs(only_first: int, only_second: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the difference of two shares, second minus first, on the same `n` items.

    Wald's interval after half an item was added to each of the four kinds of pair, which keeps its coverage in small
    samples (Agresti and Min, Statistics in Medicine 24, 2005). It reaches a little over ±1 where Wald's would; it is
    cut there.

    Args:
        only_first: Items that only the first got right.
        only_second: Items that only the second got right.
        n: Items in all.
        confidence: Share of such intervals that hold the truth.

    Raises:
        ValueError: The counts do not fit together.
    """
    if min(only_first, only_second) < 0 or n < 1 or only_first + only_second > n:
        raise ValueError(f"{only_first} and {only_second} disagreements among {n} items; expected at most {n}")
    split, together, total = only_second - only_first, only_first + only_second + 1, n + 2
    difference = split / total
    reach = quantile(confidence) * math.sqrt(together - split**2 / total) / total
    return Interval(max(-1.0, difference - reach), min(1.0, difference + reach), confidence, "matched pairs")


def bootstrap_mean(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of a mean by the bootstrap, bias-corrected and accelerated (Efron, JASA 82, 1987).

    For a paired difference, `values` are the differences. Where items depend on each other (the tokens of a window),
    `values` are the means of the clusters and `weights` their sizes: whole clusters are then drawn.

    Args:
        values: One value per item or cluster, at least two.
        weights: How much each counts in the mean; equal where None.
        confidence: Share of such intervals that hold the truth.
        seed: Of the resamples.
        resamples: How many are drawn.

    Raises:
        ValueError: There are fewer than two values, or weights that do not fit them.
    """
    x = np.asarray(values, dtype=float)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)
    n = len(x)
    if n < 2 or w.shape != x.shape or w.min() <= 0:
        raise ValueError(f"{n} values and {len(w)} weights; expected two or more, with a positive weight for each")
    mean = float(w @ x / w.sum())
    if np.ptp(x) == 0:
        return Interval(mean, mean, confidence, "bootstrap")
    draws = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, resamples, rows):
        picked = draws.integers(n, size=(min(rows, resamples - start), n))
        means[start : start + len(picked)] = (w[picked] * x[picked]).sum(axis=1) / w[picked].sum(axis=1)
    left_out = (w @ x - w * x) / (w.sum() - w)  # the mean without each value in turn
    deviation = left_out.mean() - left_out
    acceleration = float((deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5))
    # Half a resample on either side, so that a mean outside all of them still has a finite quantile.
    below = (np.count_nonzero(means < mean) + 0.5 * np.count_nonzero(means == mean) + 0.5) / (resamples + 1)
    bias, z = statistics.NormalDist().inv_cdf(below), quantile(confidence)
    ends = []
    for side in (-z, z):
        shifted = bias + (bias + side) / (1 - acceleration * (bias + side))
        ends.append(float(np.quantile(means, statistics.NormalDist().cdf(shifted))))
    return Interval(min(ends), max(ends), confidence, "bootstrap")


def is_plain_share(metric: Metric) -> bool:
    """Whether a metric is the share of right answers among independent items.

    Its standard error gives it away: √(p(1 − p) / (n − 1)) belongs to n independent values of 0 or 1 and to nothing
    else; the tokens of a text, which depend on each other, have another.
    """
    if metric.clusters is not None or metric.unit != "ratio":
        return False
    if metric.stderr is None or metric.n is None or metric.n < 2:
        return False
    if not 0 <= metric.value <= 1:
        return False
    expected = math.sqrt(metric.value * (1 - metric.value) / (metric.n - 1))
    return math.isclose(metric.stderr, expected, rel_tol=1e-6, abs_tol=1e-12)


def independent_draws(metric: Metric) -> float | None:
    """How many independent windows a figure of a text is worth, one more than its degrees of freedom; else None."""
    return metric.clusters if metric.freedom is None else metric.freedom + 1


def interval_of(metric: Metric, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of a stored figure; None where its standard error is not known."""
    if metric.stderr is None:
        return None
    if is_plain_share(metric) and metric.n is not None:
        return wilson(metric.value, metric.n, confidence)
    if metric.name == "perplexity" and metric.value > 0:
        return in_logarithm(metric.value, metric.stderr, independent_draws(metric), confidence)
    values = independent_draws(metric) or metric.n
    if values is not None and 2 <= values < _MANY:
        return student(metric.value, metric.stderr, values, confidence)
    return normal(metric.value, metric.stderr, confidence)
