"""Confidence intervals of shares, means and perplexities.

They assume a sample size fixed in advance; see `analysis.sequential` if the data decided when to stop.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from slmquant.store.record import Metric

CONFIDENCE = 0.95
"""Share of intervals that contain the true value."""

_MANY = 500
"""Sample size from which Student's t and the normal quantile agree within half a percent."""

Kind = Literal[
    "wilson",
    "normal",
    "student",
    "log-normal",
    "log-student",
    "matched pairs",
    "bootstrap",
    "any time",
    "any time, asymptotic",
]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end, in the unit of the metric.
        high: Upper end.
        confidence: Share of such intervals that contain the true value.
        kind: How it was computed.
    """

    low: float
    high: float
    confidence: float
    kind: Kind

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def rescaled(self, zero: float, unit: float) -> Interval:
        """The interval of (value − zero) / unit, for an exactly known, positive unit."""
        return Interval((self.low - zero) / unit, (self.high - zero) / unit, self.confidence, self.kind)


def quantile(confidence: float) -> float:
    """Half-width of a two-sided normal interval, in standard errors.

    Raises:
        ValueError: The confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(share: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share of `n` independent items (JASA 22, 1927).

    Unlike the normal interval it stays within [0, 1] and has a width even if all items or none are right.

    Raises:
        ValueError: There is no item, or the share is not between 0 and 1.
    """
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"share {share} of {n} items; expected a share of 0 to 1 and at least one item")
    return _score_interval(share, n, quantile(confidence), confidence)


def _score_interval(share: float, n: float, z: float, confidence: float) -> Interval:
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Clipped to contain the share itself, which rounding would leave outside at 0 and 1.
    return Interval(min(share, max(0.0, centre - reach)), max(share, min(1.0, centre + reach)), confidence, "wilson")


def normal(value: float, stderr: float, confidence: float = CONFIDENCE) -> Interval:
    """Normal interval around `value`."""
    reach = quantile(confidence) * stderr
    return Interval(value - reach, value + reach, confidence, "normal")


def student(value: float, stderr: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval around `value`, a mean of `n` values."""
    reach = student_quantile(n, confidence) * stderr
    return Interval(value - reach, value + reach, confidence, "student")


def student_quantile(n: float, confidence: float = CONFIDENCE) -> float:
    """Half-width of Student's t interval of a mean of `n` values, in standard errors.

    Args:
        n: Degrees of freedom plus one; need not be whole.
        confidence: Share of such intervals that contain the true value.

    Raises:
        ValueError: There is less than one degree of freedom, or the confidence is not between 0 and 1.
    """
    if n < 2:
        raise ValueError(f"{n} values have no standard error; give two or more")
    quantile(confidence)  # raises if the confidence is invalid
    return float(stdtrit(n - 1, (1 + confidence) / 2))


def in_logarithm(value: float, stderr: float, n: float | None = None, confidence: float = CONFIDENCE) -> Interval:
    """Interval symmetric in the logarithm, for a perplexity, whose logarithm is a mean loss.

    Args:
        value: The perplexity.
        stderr: Its standard error.
        n: Number of windows; None for many.
        confidence: Share of such intervals that contain the true value.

    Raises:
        ValueError: The value is not positive.
    """
    if value <= 0:
        raise ValueError(f"{value} has no logarithm; give a positive value")
    reach = quantile(confidence) if n is None else student_quantile(n, confidence)
    factor = math.exp(reach * stderr / value)
    return Interval(value / factor, value * factor, confidence, "log-normal" if n is None else "log-student")


def is_plain_share(metric: Metric) -> bool:
    """Whether a metric is the share of right answers among independent items.

    The standard error shows it: √(p(1 − p) / (n − 1)) belongs to n independent values of 0 or 1 only. Tokens of a text
    depend on each other and have another error.
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
    """Effective number of independent windows (degrees of freedom plus one) of a text metric, else None."""
    return metric.clusters if metric.freedom is None else metric.freedom + 1


def interval_of(metric: Metric, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of a stored metric, within its possible range; None if its standard error is unknown."""
    if metric.stderr is None:
        return None
    draws = independent_draws(metric)
    if is_plain_share(metric) and metric.n is not None:
        return wilson(metric.value, metric.n, confidence)
    if is_share(metric):
        return _share_of_windows(metric.value, metric.stderr, draws or metric.n, confidence)
    if metric.stderr == 0:
        return None  # equal values do not show the spread
    if (metric.name == "perplexity" or metric.name.startswith("kl_")) and metric.value > 0:
        return in_logarithm(metric.value, metric.stderr, draws, confidence)
    values = draws or metric.n
    if values is not None and 2 <= values < _MANY:
        return student(metric.value, metric.stderr, values, confidence)
    return normal(metric.value, metric.stderr, confidence)


def is_share(metric: Metric) -> bool:
    """Whether a metric is a share, so always between 0 and 1."""
    return metric.unit == "ratio" and metric.name.startswith(_SHARES)


_SHARES = ("acc", "exact_match", "chance", "top1_", "top5_", "flips_to_", "repeated_", "ends_in_", "ended", "same_text")


def _share_of_windows(share: float, stderr: float, draws: float | None, confidence: float) -> Interval | None:
    """Wilson's interval with the effective sample size of the standard error (Korn and Graubard, 1998).

    A share of 0 or 1 has an error of 0; it gets the number of windows as its sample size.
    """
    if draws is None or not 0 <= share <= 1:
        return None
    effective_n = share * (1 - share) / stderr**2 if stderr > 0 and 0 < share < 1 else draws
    z = quantile(confidence) if draws >= _MANY else student_quantile(draws, confidence)
    return _score_interval(share, effective_n, z, confidence)
