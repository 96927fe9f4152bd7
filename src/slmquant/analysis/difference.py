"""One metric of two cells: what differs, by how much, and whether that is more than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from slmquant.analysis.cells import machine, stops_early
from slmquant.analysis.intervals import Interval, bootstrap_mean, independent_draws, matched_pairs, normal, student
from slmquant.analysis.paired import Flips, PairedTest, flips, normal_p, paired_test, student_p
from slmquant.analysis.sequential import difference_sequence, evidence, mean_p_value, mean_sequence
from slmquant.store.record import ItemOutcome, Metric, Record, task_name

SIGNIFICANCE = 0.05
"""Two cells are called different where the two-sided p, corrected over its table, lies below this."""

Verdict = Literal["better", "worse", "different", "equal", "indistinguishable", "unknown", "refused"]
"""Of B, seen from A. Unknown where a figure has an error that is not known: seconds that were measured once."""

EXACT = frozenset({"bpw", "bpw_linears", "stored_bytes", "artifact_bytes", "kv_bits", "kl_nonfinite"})
"""Figures without an error: their sign alone decides."""

UNPAIRED = "not in pairs: the standard error is an upper bound"
NOT_KEPT = "stopped early: only items that both answered may be compared, and the answers are not at hand"

FEWEST_TO_RESAMPLE = 20
"""Pairs from which on the bootstrap is trusted; fewer resamples say too little, and Student's t is used."""

_NO_SPREAD = 1e-9
"""Of a difference: a standard error so small is one of 0, but for rounding."""

PER_ITEM: Mapping[str, tuple[str, float]] = {"nll_mean": ("perplexity", 1.0), "loglikelihood": ("perplexity", -1.0)}
"""Per-item value → the figure that is e to its mean, and with which sign."""

OF_THE_MACHINE = frozenset({"quantize_s", "quantize_peak_rss_bytes", "evaluate_s"})
"""Costs: their protocol lists the phases that were paid for, and those differ from method to method."""

OF_THE_TOKENIZER = ("perplexity", "kl_", "top1_agreement", "top5_agreement", "flips_to_")
"""How the names begin of figures that only cells of the same model may be compared by."""


@dataclass(frozen=True)
class Difference:
    """One metric of two cells.

    Attributes:
        name: The metric.
        task: What it was measured on; None for figures of the model itself.
        unit: Unit of both values and of their difference.
        a: Value in the first cell; None where it was not measured. Where cells stopped early, of the items that both
            answered.
        b: Value in the second.
        verdict: What that means.
        difference: `b − a`; None where they may not be compared.
        stderr: Standard error of the difference; None where it is not known.
        interval: Where the difference lies, with 95 % confidence; None where that is not known.
        p_value: Two-sided; None where it is not known. Where cells stopped early it holds for any reason to stop.
        p_corrected: The same, corrected over the table that this stands in; None before that.
        pairs: Number of items that both answered, for a test on pairs; None for any other.
        flips: Answers that changed from right to wrong and back, where items are right or wrong.
        higher_is_better: Which direction is better; None where neither is.
        reason: Why they may not be compared, or a remark.
    """

    name: str
    task: str | None
    unit: str
    a: float | None
    b: float | None
    verdict: Verdict
    difference: float | None = None
    stderr: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    pairs: int | None = None
    flips: Flips | None = None
    higher_is_better: bool | None = None
    reason: str | None = None


def difference(
    name: str,
    task: str | None,
    a: Record,
    b: Record,
    items_a: Sequence[ItemOutcome] = (),
    items_b: Sequence[ItemOutcome] = (),
) -> Difference:
    """Compare one metric of two cells, in pairs of the same items where their answers are given.

    Shares of right answers get McNemar's exact p and the interval of matched pairs; other means, those of a text's
    windows for instance, Student's p and a paired bootstrap interval. Where cells stopped early both hold whatever
    made them stop (`analysis.sequential`).

    Raises:
        ValueError: Neither cell has the metric.
    """
    first, second = _metric(a, name, task), _metric(b, name, task)
    some = first or second
    if some is None:
        raise ValueError(f"neither cell has {name!r} on {task!r}")

    def refused(reason: str) -> Difference:
        values = (first.value if first else None, second.value if second else None)
        return Difference(name, task, some.unit, *values, "refused", reason=reason)

    if first is None or second is None:
        return refused(_absence(a, b, name, task, first is None))
    if reason := _refusal(first, second, a, b):
        return refused(reason)
    pairs = _Pairs.of(name, task, items_a, items_b)
    early = task is not None and (stops_early(a, task) or stops_early(b, task))
    if early and pairs is None:
        return refused(NOT_KEPT)
    values = (first.value, second.value)
    if pairs is not None and early:
        test, interval = pairs.test_at_any_time()
        values = pairs.values
    elif pairs is not None and pairs.complete:
        test, interval = pairs.test()
    else:
        pairs = None
        test, interval = _unpaired(first, second)
    flipped = flips(pairs.first, pairs.second) if pairs else None
    if flipped is None and test.stderr is not None and test.stderr <= _NO_SPREAD * abs(test.difference):
        # All values differ by the same: of counts in a few windows that is chance, and says nothing of their spread.
        test, interval = replace(test, p_value=None), None
    return Difference(
        name,
        task,
        some.unit,
        *values,
        verdict=verdict(name, values[1] - values[0], test.p_value, some.higher_is_better),
        difference=values[1] - values[0],
        stderr=test.stderr,
        interval=interval,
        p_value=test.p_value,
        pairs=test.n or None,
        flips=flipped,
        higher_is_better=some.higher_is_better,
        reason=UNPAIRED if test.stderr is not None and pairs is None else None,
    )


def verdict(name: str, difference: float, p_value: float | None, higher_is_better: bool | None) -> Verdict:
    """What a difference of the metric `name` means, given its p."""
    if difference == 0:
        return "equal"
    if p_value is None and name not in EXACT:
        return "unknown"
    if p_value is not None and p_value >= SIGNIFICANCE:
        return "indistinguishable"
    if higher_is_better is None:
        return "different"
    return "better" if (difference > 0) == higher_is_better else "worse"


@dataclass(frozen=True)
class _Pairs:
    """What two cells answered on the same items, in the order in which they were asked.

    Attributes:
        first: Per-item values of the first cell.
        second: Per-item values of the second.
        complete: Whether neither answered an item that the other did not.
        of_perplexity: Whether the values are losses whose mean is the logarithm of the figure.
    """

    first: list[float]
    second: list[float]
    complete: bool
    of_perplexity: bool

    @classmethod
    def of(
        cls, name: str, task: str | None, items_a: Sequence[ItemOutcome], items_b: Sequence[ItemOutcome]
    ) -> _Pairs | None:
        """The items that both answered; None where there are none."""
        first, second = _values(name, task, items_a), _values(name, task, items_b)
        common = [item for item in first if item in second]
        if not common:
            return None
        complete = len(common) == len(first) == len(second)
        return cls([first[i] for i in common], [second[i] for i in common], complete, name == "perplexity")

    @property
    def values(self) -> tuple[float, float]:
        """The figure of either cell on these items."""
        a, b = statistics.fmean(self.first), statistics.fmean(self.second)
        return (math.exp(a), math.exp(b)) if self.of_perplexity else (a, b)

    def test(self) -> tuple[PairedTest, Interval | None]:
        """For a number of items that was fixed in advance."""
        test, flipped = paired_test(self.first, self.second), flips(self.first, self.second)
        if test.stderr is None:
            return self._as_figures(test, None)
        if flipped:
            return test, matched_pairs(flipped.to_wrong, flipped.to_right, flipped.n)
        if test.n < FEWEST_TO_RESAMPLE:
            return self._as_figures(test, student(test.difference, test.stderr, test.n))
        return self._as_figures(test, bootstrap_mean(self._differences()))

    def test_at_any_time(self) -> tuple[PairedTest, Interval | None]:
        """For a number of items that the answers themselves decided."""
        test, flipped = paired_test(self.first, self.second), flips(self.first, self.second)
        if flipped:
            found = replace(test, p_value=evidence(self.first, self.second).p_value)
            return found, difference_sequence(flipped.to_wrong, flipped.to_right, flipped.n)
        differences = self._differences()
        return self._as_figures(replace(test, p_value=mean_p_value(differences)), mean_sequence(differences))

    def _differences(self) -> list[float]:
        return [b - a for a, b in zip(self.first, self.second, strict=True)]

    def _as_figures(self, test: PairedTest, interval: Interval | None) -> tuple[PairedTest, Interval | None]:
        return _in_perplexities(self.values, test, interval) if self.of_perplexity else (test, interval)


def _in_perplexities(
    values: tuple[float, float], test: PairedTest, interval: Interval | None
) -> tuple[PairedTest, Interval | None]:
    """What is known of a difference of losses, said of the perplexities.

    The p stays what it is: perplexities are equal where losses are. They themselves would hide a difference that is
    large, as their error grows with them.
    """
    a, b = values
    if interval is not None:
        interval = replace(interval, low=a * math.expm1(interval.low), high=a * math.expm1(interval.high))
    return replace(test, difference=b - a, stderr=None if test.stderr is None else b * test.stderr), interval


def _values(name: str, task: str | None, items: Sequence[ItemOutcome]) -> dict[str, float]:
    """Item → its value of a metric; of a perplexity its loss. Items without one are left out."""
    found = {}
    for outcome in items:
        if outcome.task != task:
            continue
        if name in outcome.values:
            found[outcome.item] = outcome.values[name]
        for per_item, (figure, sign) in PER_ITEM.items():
            if figure == name and per_item in outcome.values:
                found[outcome.item] = sign * outcome.values[per_item]
    return found


def _unpaired(first: Metric, second: Metric) -> tuple[PairedTest, Interval | None]:
    a, b = first.value, second.value
    if first.stderr is None or second.stderr is None:
        return PairedTest(b - a, None, None, 0), None
    of_perplexity = first.name == "perplexity" and min(a, b) > 0
    difference = math.log(b / a) if of_perplexity else b - a
    stderr = (
        math.hypot(first.stderr / a, second.stderr / b) if of_perplexity else math.hypot(first.stderr, second.stderr)
    )
    windows = [draws for metric in (first, second) if (draws := independent_draws(metric)) is not None]
    if windows:  # the smaller of the two: fewer degrees of freedom than Welch's, so on the safe side
        fewest = min(windows)
        p_value, interval = student_p(difference, stderr, fewest - 1), student(difference, stderr, fewest)
    else:
        p_value, interval = normal_p(difference, stderr), normal(difference, stderr)
    test = PairedTest(difference, stderr, p_value, 0)
    return _in_perplexities((a, b), test, interval) if of_perplexity else (test, interval)


def _metric(record: Record, name: str, task: str | None) -> Metric | None:
    return next((m for m in record.metrics if (m.name, m.task) == (name, task)), None)


def _absence(a: Record, b: Record, name: str, task: str | None, in_a: bool) -> str:
    """Says where a metric is missing, and whether it was measured on another amount of the same data."""
    other = a if in_a else b
    for metric in other.metrics:
        if task and metric.name == name and metric.task and task_name(metric.task) == task_name(task):
            return f"{'A' if in_a else 'B'} was measured on {metric.task}: run both on the same amount"
    return f"not measured in {'A' if in_a else 'B'}"


def _refusal(first: Metric, second: Metric, a: Record, b: Record) -> str | None:
    if first.protocol != second.protocol and first.name not in OF_THE_MACHINE:
        return f"different protocols: {first.protocol or 'none stated'} and {second.protocol or 'none stated'}"
    if first.version != second.version or first.unit != second.unit:
        return f"different definitions: version {first.version} and {second.version} of the metric"
    if first.name.startswith(OF_THE_TOKENIZER) and a.spec.model_sha256 != b.spec.model_sha256:
        return "different models: it depends on the tokenizer and on the model itself"
    on_an_engine = a.spec.engine is not None and first.name != "artifact_bytes"
    if (on_an_engine or first.name in OF_THE_MACHINE) and machine(a.environment) != machine(b.environment):
        return "different machines"
    return None
