"""Cells that are run again agree with their rows; what differs, and what cannot be repeated, is told."""

from __future__ import annotations

import pytest

from slmquant.progress import Silent
from slmquant.runs.repetition import candidates, compare
from slmquant.store.record import Metric
from tests.invented import record


def metric(name: str, value: float, unit: str = "nats", task: str | None = "wikitext2:8") -> Metric:
    return Metric(name=name, value=value, unit=unit, higher_is_better=None, task=task)


def test_times_and_memory_are_not_compared_and_the_largest_difference_is_known() -> None:
    noise = metric("evaluate_s", 3.0, "s", None), metric("quantize_peak_rss_bytes", 5.0, "bytes", None)
    stored = record("rtn", "W8A8", (metric("kl_mean", 0.1), metric("bpw", 8.0, "bits", None), *noise))
    again = compare(stored, (metric("kl_mean", 0.1001), metric("bpw", 8.0, "bits", None)))

    assert again.compared == 2
    assert again.unequal == {"kl_mean of wikitext2:8": (0.1, 0.1001)}
    assert again.largest == pytest.approx(0.001, rel=0.01)


def test_a_metric_that_is_absent_is_no_agreement() -> None:
    assert compare(record("rtn", "W8A8", (metric("kl_mean", 0.1),)), ()).largest == float("inf")


def test_what_cannot_be_repeated_is_told_apart() -> None:
    on_engine = record("rtn", "W8A8").spec.model_copy(update={"engine": "llamacpp", "tasks": ()})
    records = [
        record("rtn", "W8A8", status="refused", reason="no"),
        record("rtn", "W8A8", cell=on_engine),
        record("rtn", "W4A8"),
    ]
    found = candidates(records, None, Silent())

    assert found.same == ()
    reasons = [reason for _, reason in found.apart]
    assert reasons[:2] == ["it is refused", "it was timed on an engine, and times are never the same twice"]
    assert "invented-135m" in reasons[2]
