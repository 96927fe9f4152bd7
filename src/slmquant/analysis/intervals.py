"""How far a figure may lie from the truth: intervals for shares, means and paired differences.

Every interval here is for a sample whose size was fixed in advance; where the data decided when to stop, see
`analysis.sequential`.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from slmquant.store.record import Metric

CONFIDENCE = 0.95
"""Share of such intervals that hold the truth."""

_MANY = 500
"""Values from which on Student's t and the normal distribution are the same within half a percent."""

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
    return _score_interval(share, n, quantile(confidence), confidence)


def _score_interval(share: float, n: float, z: float, confidence: float) -> Interval:
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
    """The interval of a stored figure; None where its standard error is not known. It stays where the figure can be."""
    if metric.stderr is None:
        return None
    draws = independent_draws(metric)
    if is_plain_share(metric) and metric.n is not None:
        return wilson(metric.value, metric.n, confidence)
    if is_share(metric):
        return _share_of_windows(metric.value, metric.stderr, draws or metric.n, confidence)
    if metric.stderr == 0:
        return None  # a few values that are all alike say nothing of how far others stray
    if (metric.name == "perplexity" or metric.name.startswith("kl_")) and metric.value > 0:
        return in_logarithm(metric.value, metric.stderr, draws, confidence)
    values = draws or metric.n
    if values is not None and 2 <= values < _MANY:
        return student(metric.value, metric.stderr, values, confidence)
    return normal(metric.value, metric.stderr, confidence)


def is_share(metric: Metric) -> bool:
    """Whether a metric is a share of something, so that it lies between 0 and 1 whatever is measured."""
    return metric.unit == "ratio" and metric.name.startswith(_SHARES)


_SHARES = ("acc", "exact_match", "chance", "top1_", "top5_", "flips_to_", "repeated_", "ends_in_", "ended", "same_text")


def _share_of_windows(share: float, stderr: float, draws: float | None, confidence: float) -> Interval | None:
    """Wilson's interval with as many independent items as the standard error is worth (Korn and Graubard, 1998).

    Of a share of 0 or 1, whose error is 0, with as many as there are windows.
    """
    if draws is None or not 0 <= share <= 1:
        return None
    worth = share * (1 - share) / stderr**2 if stderr > 0 and 0 < share < 1 else draws
    z = quantile(confidence) if draws >= _MANY else student_quantile(draws, confidence)
    return _score_interval(share, worth, z, confidence)
