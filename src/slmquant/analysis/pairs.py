"""Paired values of one metric of two cells, and the test that fits them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.intervals import CONFIDENCE, Interval
from slmquant.analysis.matched import MatchedShares
from slmquant.analysis.means import BootstrapMean, Estimate
from slmquant.analysis.paired import Flips, flips
from slmquant.analysis.sequential import (
    bounded_p_value,
    bounded_sequence,
    difference_sequence,
    evidence,
    mean_sequence,
)
from slmquant.analysis.serial import series_mean
from slmquant.store.record import ItemOutcome, Metric

PER_ITEM: Mapping[str, tuple[str, float]] = {"nll_mean": ("perplexity", 1.0), "loglikelihood": ("perplexity", -1.0)}
"""Per-item value → (metric that is e to its mean, sign of the value in the exponent)."""


@dataclass(frozen=True)
class Pairs:
    """Values of the items that both cells answered, in their common order.

    Attributes:
        items: Item names.
        first: Values of the first cell; losses if the metric is a perplexity.
        second: Values of the second cell, likewise.
        complete: Whether both cells answered exactly these items.
        of_perplexity: Whether the values are losses, whose mean is the logarithm of the metric.
        of_text: Whether the items are windows of a text, named by their position.
    """

    items: tuple[str, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    complete: bool
    of_perplexity: bool
    of_text: bool

    @classmethod
    def of(cls, metric: Metric, items_a: Sequence[ItemOutcome], items_b: Sequence[ItemOutcome]) -> Pairs | None:
        """The pairs of a metric; None if no item is common."""
        first, second = (_values(metric.name, metric.task, items) for items in (items_a, items_b))
        common = tuple(item for item in first if item in second)
        if not common:
            return None
        of_text = metric.clusters is not None or (metric.name == "perplexity" and _has_windows(metric.task, items_a))
        return cls(
            common,
            tuple(first[item] for item in common),
            tuple(second[item] for item in common),
            len(common) == len(first) == len(second),
            metric.name == "perplexity",
            of_text and all(item.isdecimal() for item in common),
        )

    @property
    def values(self) -> tuple[float, float]:
        """The metric of each cell on these items."""
        a, b = statistics.fmean(self.first), statistics.fmean(self.second)
        return (math.exp(a), math.exp(b)) if self.of_perplexity else (a, b)

    @property
    def flips(self) -> Flips | None:
        """Flipped answers; None if items are not right or wrong."""
        return None if self.of_text else flips(self.first, self.second)

    def estimate(self) -> Estimate | None:
        """The test for a sample size fixed in advance; None for a single item."""
        if flipped := self.flips:
            return MatchedShares(flipped.to_wrong, flipped.to_right, flipped.n)
        if len(self.items) < 2:
            return None
        if self.of_text:
            return series_mean(self.differences, positions=[int(item) for item in self.items])
        return BootstrapMean(self.differences)

    def at_any_time(self, is_share: bool) -> Estimate:
        """The anytime-valid test, for a sample size that the answers decided.

        Args:
            is_share: Whether the values always lie between 0 and 1. Means of unbounded values have no anytime-valid
                test, and an interval only for many items.
        """
        if self.flips:
            return _SharesAtAnyTime(self.first, self.second)
        return _BoundedAtAnyTime(self.differences) if is_share else _UnboundedAtAnyTime(self.differences)

    @property
    def differences(self) -> tuple[float, ...]:
        """Second minus first, item by item."""
        return tuple(b - a for a, b in zip(self.first, self.second, strict=True))


@dataclass(frozen=True)
class _SharesAtAnyTime:
    """Anytime-valid estimate from right and wrong answers; see `analysis.sequential`."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.second) - statistics.fmean(self.first)

    @property
    def stderr(self) -> float | None:
        flipped = flips(self.first, self.second)
        return None if flipped is None else MatchedShares(flipped.to_wrong, flipped.to_right, flipped.n).stderr

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """The differences that are not rejected: zero and beyond by the test, all others by `difference_sequence`.

        The test of zero is the stronger one, and its error covers all differences of the other sign, so the interval
        contains zero exactly if `p_value` does not reject it.
        """
        flipped = flips(self.first, self.second)
        if flipped is None:
            return None
        span = difference_sequence(flipped.to_wrong, flipped.to_right, flipped.n, confidence)
        found = evidence(self.first, self.second)
        if found.leader is None or found.p_value > 1 - confidence:
            return replace(span, low=min(span.low, 0.0), high=max(span.high, 0.0))
        least = math.ulp(0.0)  # the end itself, zero, is rejected
        if found.leader == 1:
            return replace(span, low=max(span.low, least), high=max(span.high, least))
        return replace(span, low=min(span.low, -least), high=min(span.high, -least))

    def p_value(self, null: float = 0.0) -> float | None:
        return evidence(self.first, self.second).p_value if null == 0 else _p_of(self, null)


@dataclass(frozen=True)
class _UnboundedAtAnyTime:
    """Estimate from unbounded differences: an asymptotically anytime-valid interval and no test."""

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def stderr(self) -> float | None:
        n = len(self.differences)
        return statistics.stdev(self.differences) / math.sqrt(n) if n > 1 else None

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        return mean_sequence(self.differences, confidence)

    def p_value(self, null: float = 0.0) -> float | None:  # noqa: ARG002
        return None


class _BoundedAtAnyTime(_UnboundedAtAnyTime):
    """Anytime-valid estimate from differences of values in [0, 1]; see `analysis.sequential`."""

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        return bounded_sequence(self.differences, -1.0, 1.0, confidence)

    def p_value(self, null: float = 0.0) -> float | None:
        return bounded_p_value(self.differences, -1.0, 1.0, null)


def _p_of(estimate: Estimate, null: float) -> float:
    """The p of `null`: one minus the confidence at which the interval just reaches it."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        interval = estimate.interval(min(1 - 1e-12, max(1e-12, 1 - middle)))
        low, high = (middle, high) if interval is not None and null in interval else (low, middle)
    return high


def _values(name: str, task: str | None, items: Sequence[ItemOutcome]) -> dict[str, float]:
    """Item → its value of a metric (the loss for a perplexity); items without a value are left out."""
    values = {}
    for outcome in items:
        if outcome.task != task:
            continue
        if name in outcome.values:
            values[outcome.item] = outcome.values[name]
        for per_item, (metric_name, sign) in PER_ITEM.items():
            if metric_name == name and per_item in outcome.values:
                values[outcome.item] = sign * outcome.values[per_item]
    return values


def _has_windows(task: str | None, items: Sequence[ItemOutcome]) -> bool:
    return any("nll_mean" in outcome.values for outcome in items if outcome.task == task)
