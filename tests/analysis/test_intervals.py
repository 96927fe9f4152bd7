"""Intervals hold the truth about as often as they say, on invented samples with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slmquant.analysis.intervals import (
    in_logarithm,
    interval_of,
    is_plain_share,
    normal,
    student,
    wilson,
)
from slmquant.analysis.paired import student_p
from slmquant.store.record import Metric


@pytest.mark.parametrize(("right", "n"), [(0, 1), (0, 50), (13, 50), (25, 100), (100, 100), (4999, 5000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(right: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    found = wilson(right / n, n, confidence)

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert right / n in found


@pytest.mark.parametrize("n", [50, 100, 500])
@pytest.mark.parametrize("truth", [0.25, 0.28, 0.5, 0.75])
def test_wilson_covers_near_chance(n: int, truth: float) -> None:
    """Exactly: the probability of every outcome whose interval holds the truth."""
    inside = [right for right in range(n + 1) if truth in wilson(right / n, n)]

    assert 0.93 < math.fsum(stats.binom.pmf(inside, n, truth)) < 0.97


@pytest.mark.parametrize("n", [2, 3, 4, 9, 20, 101])
def test_student_is_scipys(n: int) -> None:
    expected = stats.t.interval(0.95, n - 1)
    found = student(0.0, 1.0, n)

    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert student_p(2.2, 1.1, n - 1) == pytest.approx(2 * stats.t.sf(2, n - 1), abs=1e-12)


def metric(name: str, value: float, stderr: float | None, n: int | None = 100, unit: str = "ratio") -> Metric:
    return Metric(name=name, value=value, unit=unit, higher_is_better=True, n=n, stderr=stderr)


def test_the_interval_follows_what_the_figure_is() -> None:
    share = metric("acc", 0.3, math.sqrt(0.3 * 0.7 / 99))
    tokens = metric("top1_agreement", 0.9, 0.02, 8000)
    perplexity = metric("perplexity", 20.0, 0.4, 8000, "1")

    assert is_plain_share(share) and not is_plain_share(tokens) and not is_plain_share(perplexity)
    assert interval_of(share) == wilson(0.3, 100)
    assert interval_of(tokens) == wilson(0.9, 225)  # whose error, 0.02, is that of 225 independent items
    assert interval_of(perplexity) == in_logarithm(20.0, 0.4)
    assert interval_of(metric("bpw", 4.5, None, None, "bits")) is None


def test_the_interval_of_a_text_knows_how_few_its_windows_are() -> None:
    tokens, perplexity = metric("top1_agreement", 0.9, 0.02, 6141), metric("perplexity", 20.0, 0.4, 6141, "1")
    windows = {"clusters": 3}
    share, ppl = interval_of(tokens.model_copy(update=windows)), interval_of(perplexity.model_copy(update=windows))
    reach = stats.t.ppf(0.975, 2)

    assert share is not None and share.low < 0.9 < share.high <= 1
    assert (share.high - share.low) / 2 > 2 * 0.02  # half of what Student's t alone would say: 1 is a border
    assert ppl is not None and math.log(ppl.high / 20) / (0.4 / 20) == pytest.approx(reach)
    assert interval_of(metric("loop_tokens", 4.0, 1.0, 12, "tokens")) == student(4.0, 1.0, 12)
    half = metric("flips_to_wrong", 0.5, math.sqrt(0.25 / 99)).model_copy(update=windows)
    assert not is_plain_share(half)  # whatever its error happens to be


def test_three_windows_cover_as_often_as_they_say() -> None:
    draws = np.random.default_rng(3).normal(size=(4000, 3))
    errors = draws.std(axis=1, ddof=1) / math.sqrt(3)
    held = [0.0 in student(float(mean), float(error), 3) for mean, error in zip(draws.mean(1), errors, strict=True)]

    assert np.mean(held) == pytest.approx(0.95, abs=0.012)  # normal quantiles would hold 81 % of them


def test_all_right_or_none_still_has_a_width() -> None:
    found = interval_of(metric("acc", 1.0, 0.0, 40))

    assert found is not None and found.low < 0.93 and found.high == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: wilson(0.5, 0),
        lambda: wilson(1.2, 10),
        lambda: normal(0, 1, confidence=95),
        lambda: in_logarithm(0, 1),
    ],
)
def test_nonsense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize("clusters", [3, 8, 40])
@pytest.mark.parametrize(("share", "stderr"), [(0.999, 0.01), (1.0, 0.0), (0.0, 0.0), (0.02, 0.03)])
def test_a_share_of_a_text_stays_between_0_and_1(share: float, stderr: float, clusters: int) -> None:
    found = interval_of(metric("top1_agreement", share, stderr, 6141).model_copy(update={"clusters": clusters}))

    assert found is not None and 0 <= found.low < found.high <= 1 and share in found


def test_a_divergence_stays_above_0() -> None:
    found = interval_of(metric("kl_mean", 0.02, 0.015, 6141, "nats").model_copy(update={"clusters": 3}))

    assert found is not None and 0 < found.low < 0.02 < found.high


def test_values_that_are_all_alike_have_no_interval_without_bounds() -> None:
    """Five prompts without a loop say nothing of the next: `0.0 ±0.0` would."""
    assert interval_of(metric("loop_tokens", 0.0, 0.0, 5, "tokens")) is None
    looped = interval_of(metric("ends_in_loop", 0.0, 0.0, 5))
    assert looped is not None and looped.low == 0.0 and looped.high == pytest.approx(0.434, abs=0.001)
