"""Two cells side by side: what differs, by how much, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slmquant.analysis.cells import machine
from slmquant.analysis.paired import PairedTest, normal_p, paired_test
from slmquant.store.record import ItemOutcome, Metric, Record

SIGNIFICANCE = 0.05
"""Two cells are called different where the two-sided p lies below this."""

Verdict = Literal["better", "worse", "different", "equal", "indistinguishable", "refused"]
"""Of B, seen from A. Where no standard error is known the sign alone decides: sizes, for one, are exact."""

UNPAIRED = "not in pairs: the standard error is an upper bound"

OF_THE_MACHINE = frozenset({"quantize_s", "quantize_peak_rss_bytes", "evaluate_s"})
"""Costs: their protocol lists the phases that were paid for, and those differ from method to method."""

OF_THE_TOKENIZER = frozenset({"perplexity", "kl_mean", "kl_median", "kl_p99", "kl_reverse_mean", "top1_agreement"})
OF_THE_TASK = frozenset({"chance", "calibration_tokens"})
"""Facts of what was asked, not of how well it went: not compared."""


@dataclass(frozen=True)
class Difference:
    """One metric of two cells.

    Attributes:
        name: The metric.
        task: What it was measured on; None for figures of the model itself.
        unit: Unit of both values and of their difference.
        a: Value in the first cell; None where it was not measured.
        b: Value in the second.
        difference: `b − a`; None where they may not be compared.
        stderr: Standard error of the difference; None where it is not known.
        p_value: Two-sided; None where it is not known.
        pairs: Number of items that both answered, for a test on pairs; None for any other.
        verdict: What that means.
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
    p_value: float | None = None
    pairs: int | None = None
    reason: str | None = None


def compare(
    a: Record, b: Record, items_a: Sequence[ItemOutcome] = (), items_b: Sequence[ItemOutcome] = ()
) -> list[Difference]:
    """Every metric that either cell has.

    Args:
        a: The cell that is compared with.
        b: The cell that is compared.
        items_a: What `a` answered on each item; accuracies are compared in pairs where both are given.
        items_b: What `b` answered.
    """
    wanted = {(m.name, m.task): None for m in (*a.metrics, *b.metrics) if m.name not in OF_THE_TASK}
    return [_difference(name, task, a, b, items_a, items_b) for name, task in wanted]


def _difference(
    name: str,
    task: str | None,
    a: Record,
    b: Record,
    items_a: Sequence[ItemOutcome],
    items_b: Sequence[ItemOutcome],
) -> Difference:
    first, second = _metric(a, name, task), _metric(b, name, task)
    some = first or second
    if some is None:
        raise ValueError(f"neither cell has {name!r} on {task!r}")
    values = (first.value if first else None, second.value if second else None)
    if first is None or second is None:
        return Difference(name, task, some.unit, *values, "refused", reason=_absence(a, b, name, task, first is None))
    if reason := _refusal(first, second, a, b):
        return Difference(name, task, some.unit, *values, "refused", reason=reason)
    test = _paired(name, task, items_a, items_b) or _unpaired(first, second)
    difference = second.value - first.value
    return Difference(
        name,
        task,
        some.unit,
        *values,
        verdict=_verdict(difference, test.p_value, some.higher_is_better),
        difference=difference,
        stderr=test.stderr,
        p_value=test.p_value,
        pairs=test.n or None,
        reason=UNPAIRED if test.stderr is not None and not test.n else None,
    )


def _metric(record: Record, name: str, task: str | None) -> Metric | None:
    return next((m for m in record.metrics if (m.name, m.task) == (name, task)), None)


def _absence(a: Record, b: Record, name: str, task: str | None, in_a: bool) -> str:
    """Says where a metric is missing, and whether it was measured on another amount of the same data."""
    other = a if in_a else b
    plain = task.split(":")[0] if task else None
    for metric in other.metrics:
        if metric.name == name and metric.task and metric.task.split(":")[0] == plain:
            return f"{'A' if in_a else 'B'} was measured on {metric.task}: run both on the same amount"
    return f"not measured in {'A' if in_a else 'B'}"


def _refusal(first: Metric, second: Metric, a: Record, b: Record) -> str | None:
    if first.protocol != second.protocol and first.name not in OF_THE_MACHINE:
        return f"different protocols: {first.protocol or 'none stated'} and {second.protocol or 'none stated'}"
    if first.version != second.version or first.unit != second.unit:
        return f"different definitions: version {first.version} and {second.version} of the metric"
    if first.name in OF_THE_TOKENIZER and a.spec.model_sha256 != b.spec.model_sha256:
        return "different models: it depends on the tokenizer and on the model itself"
    if first.name in OF_THE_MACHINE and machine(a.environment) != machine(b.environment):
        return "different machines"
    return None


def _paired(
    name: str, task: str | None, items_a: Sequence[ItemOutcome], items_b: Sequence[ItemOutcome]
) -> PairedTest | None:
    first = {o.item: o.values[name] for o in items_a if o.task == task and name in o.values}
    second = {o.item: o.values[name] for o in items_b if o.task == task and name in o.values}
    common = [item for item in first if item in second]
    if not common or len(common) < max(len(first), len(second)):
        return None
    return paired_test([first[item] for item in common], [second[item] for item in common])


def _unpaired(first: Metric, second: Metric) -> PairedTest:
    difference = second.value - first.value
    if first.stderr is None or second.stderr is None:
        return PairedTest(difference, None, None, 0)
    stderr = math.hypot(first.stderr, second.stderr)
    return PairedTest(difference, stderr, normal_p(difference, stderr), 0)


def _verdict(difference: float, p_value: float | None, higher_is_better: bool | None) -> Verdict:
    if difference == 0:
        return "equal"
    if p_value is not None and p_value >= SIGNIFICANCE:
        return "indistinguishable"
    if higher_is_better is None:
        return "different"
    return "better" if (difference > 0) == higher_is_better else "worse"
