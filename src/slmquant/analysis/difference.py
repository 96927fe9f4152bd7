"""Compare one metric of two cells: difference, interval, p-values and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from slmquant.analysis.cells import machine, stops_early
from slmquant.analysis.endpoints import DEFAULT_MARGINS, POWER, SIGNIFICANCE, Kind, Margins, endpoint
from slmquant.analysis.intervals import Interval, independent_draws, is_share
from slmquant.analysis.matched import MatchedShares
from slmquant.analysis.means import BootstrapMean, Estimate, IndependentMeans, equivalence_p, smallest_seen
from slmquant.analysis.paired import Flips
from slmquant.analysis.pairs import Pairs
from slmquant.analysis.serial import SeriesMean
from slmquant.store.record import ItemOutcome, Metric, Record, task_name

Verdict = Literal["better", "worse", "different", "equivalent", "cannot tell", "equal", "descriptive", "refused"]
"""How B compares to A.

A primary endpoint (`analysis.endpoints`) gets one of three answers: different (better or worse if the metric has a
direction); equivalent, shown to differ by less than a stated margin; or "cannot tell", too few items. Other metrics are
"descriptive". For metrics without an error, such as sizes, the sign alone decides, and "equal" means the same number.
"refused" means that the values are not comparable.
"""

EXACT = frozenset({"bpw", "bpw_linears", "stored_bytes", "artifact_bytes", "kv_bits", "kl_nonfinite"})
"""Metrics without an error; the sign of the difference decides."""

UNPAIRED = "not paired: the standard error is an upper bound"
NOT_KEPT = "stopped early: only items that both cells answered can be compared, and their answers were not stored"
FEW_WINDOWS = "{} windows of text; a verdict needs at least {}"
FEW_ITEMS = "{} items with continuous values; a verdict needs at least {}"
NO_SPREAD = "all values differ by the same amount, so there is no standard error"

FEWEST_WINDOWS = 4
"""Windows of a text needed for a verdict: the fewest that `tests/analysis/test_serial.py` simulates."""

FEWEST_ITEMS = 200
"""Items with continuous values needed for a verdict: a smaller sample may miss rare large values."""

_NO_SPREAD = 1e-9
"""Relative to the difference: a smaller standard error is 0 but for rounding."""

OF_THE_MACHINE = frozenset(
    {
        "quantize_s",
        "quantize_cpu_s",
        "load_model_s",
        "quantize_peak_rss_bytes",
        "quantize_added_rss_bytes",
        "quantize_noise",
        "quantize_read_bytes",
        "quantize_written_bytes",
        "quantize_energy_j",
        "quantize_device_peak_bytes",
        "evaluate_s",
    }
)
"""Costs. Compared across protocols, which list the phases, but only on one machine."""

OF_THE_TOKENIZER = ("perplexity", "kl_", "top1_agreement", "top5_agreement", "flips_to_")
"""Name prefixes of metrics that are comparable only between cells of the same model."""


@dataclass(frozen=True)
class Difference:
    """The comparison of one metric between two cells.

    Attributes:
        name: The metric.
        task: The task it was measured on; None for metrics of the model itself.
        unit: Unit of both values and of their difference.
        a: Value in the first cell, over common items if a cell stopped early; None if not measured.
        b: Value in the second cell, likewise.
        verdict: How B compares to A; see `Verdict`.
        endpoint: The primary endpoint it is; None if the metric is descriptive, without p and verdict.
        difference: `b − a`; None if the values are not comparable.
        stderr: Standard error of the difference; None if unknown.
        interval: 95 % interval of the difference, by the same test as the p; None if unknown.
        p_value: Two-sided p of no difference; None if unknown. Valid under any stopping rule if cells stopped early.
        p_corrected: The same, corrected over all primary endpoints of the table; None before the correction.
        p_equivalence: p of a difference of `margin` or more, by two one-sided tests.
        p_equivalence_corrected: The same, corrected over the table.
        margin: Largest difference that counts as none; for a perplexity, in nats of the loss.
        smallest_seen: The smallest detectable difference: found with 80 % probability with this many items and
            endpoints, in the unit of the difference. None if unknown, or if even the largest would be missed.
        pairs: Number of items that both cells answered, for a paired test; else None.
        flips: Answers that changed between right and wrong, if items are right or wrong.
        higher_is_better: Which direction is better; None if neither is.
        reason: Why the values are not comparable, or a remark.
        estimate: The test that gave error, interval and p.
    """

    name: str
    task: str | None
    unit: str
    a: float | None
    b: float | None
    verdict: Verdict
    endpoint: Kind | None = None
    difference: float | None = None
    stderr: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    p_equivalence: float | None = None
    p_equivalence_corrected: float | None = None
    margin: float | None = None
    smallest_seen: float | None = None
    pairs: int | None = None
    flips: Flips | None = None
    higher_is_better: bool | None = None
    reason: str | None = None
    estimate: Estimate | None = field(default=None, repr=False, compare=False)

    @property
    def is_within_margin(self) -> bool:
        """Whether the difference is shown to be smaller than the margin, even if it is not zero."""
        p = self.p_equivalence if self.p_equivalence_corrected is None else self.p_equivalence_corrected
        return p is not None and p < SIGNIFICANCE

    def as_json(self) -> dict[str, object]:
        """All attributes as plain values, without the test itself."""
        return asdict(replace(self, estimate=None)) | {"estimate": None, "is_within_margin": self.is_within_margin}


def difference(
    name: str,
    task: str | None,
    a: Record,
    b: Record,
    items_a: Sequence[ItemOutcome] = (),
    items_b: Sequence[ItemOutcome] = (),
    margins: Margins = DEFAULT_MARGINS,
) -> Difference:
    """Compare one metric of two cells, paired by item if the answers of both are given.

    Accuracies are tested by McNemar's mid-p, windows of a text by Student's t for correlated neighbours, other means by
    the bootstrap. If a cell stopped early, the test is valid under any stopping rule (`analysis.sequential`).

    Raises:
        ValueError: Neither cell has the metric.
    """
    first, second = _metric(a, name, task), _metric(b, name, task)
    some = first or second
    if some is None:
        raise ValueError(f"neither cell has metric {name!r} on task {task!r}")
    kind = endpoint(name, task, (a, b))

    def refused(reason: str) -> Difference:
        values = (first.value if first else None, second.value if second else None)
        return Difference(name, task, some.unit, *values, "refused", kind, reason=reason)

    if first is None or second is None:
        return refused(_absence(a, b, name, task, first is None))
    if reason := _refusal(first, second, a, b):
        return refused(reason)
    pairs = Pairs.of(first, items_a, items_b)
    early = task is not None and (stops_early(a, task) or stops_early(b, task))
    if early and pairs is None:
        return refused(NOT_KEPT)
    values, remark = (first.value, second.value), None
    estimate: Estimate | None
    if pairs is not None and early:
        values, estimate = pairs.values, pairs.at_any_time(is_share(first))
    elif pairs is not None and pairs.complete:
        estimate = pairs.estimate()
    else:
        pairs, estimate = None, _unpaired(first, second)
        remark = UNPAIRED if estimate is not None else None
    if estimate is not None and _has_no_spread(estimate):
        # For counts in a few windows, equal differences are chance and do not show their spread.
        estimate, remark = None, NO_SPREAD
    found = Difference(
        name,
        task,
        some.unit,
        *values,
        verdict="descriptive",
        endpoint=kind,
        difference=values[1] - values[0],
        pairs=len(pairs.items) if pairs else None,
        flips=pairs.flips if pairs else None,
        higher_is_better=some.higher_is_better,
        reason=remark,
        estimate=estimate,
    )
    if estimate is not None:
        found = replace(found, stderr=_error(found, estimate), interval=_interval(found, first, estimate))
    if name in EXACT:
        return replace(found, verdict=_direction(found))
    if a == b:
        return replace(found, verdict="equal")
    return found if kind is None else _tested(found, kind, first, second, margins)


def _tested(one: Difference, kind: Kind, first: Metric, second: Metric, margins: Margins) -> Difference:
    """Add p-values and a verdict to a primary endpoint, unless too little was measured for them to hold."""
    one = replace(one, margin=margins.of(kind), verdict="cannot tell")
    estimate = one.estimate
    if estimate is None:
        return one
    windows = _windows(one, first, second)
    if windows is not None and windows < FEWEST_WINDOWS:
        return replace(one, reason=FEW_WINDOWS.format(windows, FEWEST_WINDOWS))
    if isinstance(estimate, BootstrapMean) and len(estimate.values) < FEWEST_ITEMS:
        return replace(one, reason=FEW_ITEMS.format(len(estimate.values), FEWEST_ITEMS))
    p_value, p_equivalence = estimate.p_value(), equivalence_p(estimate, margins.of(kind))
    return judged(replace(one, p_value=p_value, p_equivalence=p_equivalence), p_value, p_equivalence)


def judged(one: Difference, p_value: float | None, p_equivalence: float | None, tests: int = 1) -> Difference:
    """Set the verdict of a primary endpoint from its p-values.

    Args:
        one: The endpoint.
        p_value: p of no difference, corrected if the table has several endpoints.
        p_equivalence: p of a difference of at least the margin, corrected likewise.
        tests: Number of endpoints in the table, which share the error.
    """
    verdict: Verdict = "cannot tell"
    if p_value is not None and p_value < SIGNIFICANCE:
        verdict = _direction(one)
    elif p_equivalence is not None and p_equivalence < SIGNIFICANCE:
        verdict = "equivalent"
    return replace(one, verdict=verdict, smallest_seen=_smallest_seen(one, SIGNIFICANCE / tests))


def _direction(one: Difference) -> Verdict:
    if one.difference == 0:
        return "equal"
    if one.higher_is_better is None or one.difference is None:
        return "different"
    return "better" if (one.difference > 0) == one.higher_is_better else "worse"


def _smallest_seen(one: Difference, significance: float) -> float | None:
    estimate = one.estimate
    if isinstance(estimate, MatchedShares):
        return estimate.smallest_seen(significance, POWER)
    if not isinstance(estimate, SeriesMean | BootstrapMean | IndependentMeans):
        return None
    found = smallest_seen(estimate.stderr, estimate.freedom, significance, POWER)
    if found is None or one.name != "perplexity" or one.a is None:
        return found
    return one.a * math.expm1(found)


def _error(one: Difference, estimate: Estimate) -> float | None:
    """Standard error of the difference; for a perplexity, derived from that of the loss."""
    if estimate.stderr is None or one.name != "perplexity" or one.b is None:
        return estimate.stderr
    return one.b * estimate.stderr


def _interval(one: Difference, metric: Metric, estimate: Estimate) -> Interval | None:
    """Interval of the difference: for a perplexity converted from the loss, for a share clipped to ±1."""
    found = estimate.interval()
    if found is None:
        return None
    if one.name == "perplexity" and one.a is not None:
        return replace(found, low=one.a * math.expm1(found.low), high=one.a * math.expm1(found.high))
    if is_share(metric):
        return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))
    return found


def _has_no_spread(estimate: Estimate) -> bool:
    if isinstance(estimate, MatchedShares) or estimate.stderr is None:
        return False
    return estimate.stderr <= _NO_SPREAD * abs(estimate.mean)


def _windows(one: Difference, first: Metric, second: Metric) -> int | None:
    """Number of text windows behind the difference; None if it is not on a text."""
    if isinstance(one.estimate, SeriesMean):
        return one.estimate.windows
    return min((metric.clusters for metric in (first, second) if metric.clusters is not None), default=None)


def _unpaired(first: Metric, second: Metric) -> IndependentMeans | None:
    if first.stderr is None or second.stderr is None:
        return None
    a, b = first.value, second.value
    draws = [worth for metric in (first, second) if (worth := independent_draws(metric)) is not None]
    # The smaller of the two is at most Welch's number of degrees of freedom, so it errs on the safe side.
    freedom = min(draws) - 1 if draws else None
    if first.name == "perplexity" and min(a, b) > 0:
        return IndependentMeans(math.log(b / a), math.hypot(first.stderr / a, second.stderr / b), freedom)
    return IndependentMeans(b - a, math.hypot(first.stderr, second.stderr), freedom)


def _metric(record: Record, name: str, task: str | None) -> Metric | None:
    return next((m for m in record.metrics if (m.name, m.task) == (name, task)), None)


def _absence(a: Record, b: Record, name: str, task: str | None, in_a: bool) -> str:
    """Say which cell lacks the metric, and whether it was measured on another amount of the same data."""
    other = a if in_a else b
    for metric in other.metrics:
        if task and metric.name == name and metric.task and task_name(metric.task) == task_name(task):
            return f"{'A' if in_a else 'B'} was measured on {metric.task}; run both on the same amount of data"
    return f"not measured in {'A' if in_a else 'B'}"


def _refusal(first: Metric, second: Metric, a: Record, b: Record) -> str | None:
    if first.protocol != second.protocol and first.name not in OF_THE_MACHINE:
        return f"different protocols: {first.protocol or 'not stated'} and {second.protocol or 'not stated'}"
    if first.version != second.version or first.unit != second.unit:
        return f"different definitions of the metric: versions {first.version} and {second.version}"
    if first.name.startswith(OF_THE_TOKENIZER) and a.spec.model_sha256 != b.spec.model_sha256:
        return "different models: this metric depends on the tokenizer and on the model"
    on_an_engine = a.spec.engine is not None and first.name != "artifact_bytes"
    if (on_an_engine or first.name in OF_THE_MACHINE) and machine(a.environment) != machine(b.environment):
        return "different machines"
    if first.name in OF_THE_MACHINE and a.spec.device != b.spec.device:
        return "different devices"
    return None
