"""Intervals hold the truth about as often as they say, on invented samples with known truth."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from slmquant.analysis.intervals import (
    Interval,
    bootstrap_mean,
    in_logarithm,
    interval_of,
    is_plain_share,
    matched_pairs,
    normal,
    student,
    wilson,
)
from slmquant.analysis.paired import student_p
from slmquant.store.record import Metric

SAMPLES = 4000


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


@pytest.mark.parametrize("n", [50, 200, 500])
@pytest.mark.parametrize(("first", "second"), [(0.02, 0.02), (0.1, 0.1), (0.05, 0.12)])
def test_matched_pairs_cover(n: int, first: float, second: float) -> None:
    draws = np.random.default_rng(0).multinomial(n, [first, second, 1 - first - second], size=SAMPLES)
    covered = [second - first in matched_pairs(int(b), int(c), n) for b, c, _ in draws]

    assert statistics.fmean(covered) > 0.93
    assert statistics.fmean(covered) < 0.985 or (first + second) * n < 10  # too few disagreements for any to be exact


def test_matched_pairs_are_wald_with_half_an_item_more_of_each_kind() -> None:
    b, c, n = 7 + 0.5, 3 + 0.5, 40 + 2
    values = np.array([-1.0, 1.0, 0.0])
    shares = np.array([b, c, n - b - c]) / n
    mean = float(values @ shares)
    stderr = math.sqrt(float(values**2 @ shares - mean**2) / n)
    found = matched_pairs(7, 3, 40)

    assert (found.low + found.high) / 2 == pytest.approx(mean)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * stderr, rel=1e-6)


@pytest.mark.parametrize("n", [50, 200])
def test_the_bootstrap_covers_a_skewed_mean(n: int) -> None:
    """Differences of per-item divergences are skewed: exponential ones stand for them."""
    samples = np.random.default_rng(1).exponential(size=(400, n))
    covered = statistics.fmean(1.0 in bootstrap_mean(sample, resamples=400) for sample in samples)

    assert 0.90 < covered < 0.975  # ± 2.4 standard errors of 400 samples around 0.93 to 0.95


def test_the_bootstrap_covers_where_clusters_hang_together() -> None:
    """30 windows of unequal size whose tokens share their window's mean: tokens alone would cover far too rarely."""
    draws = np.random.default_rng(2)
    sizes = draws.integers(20, 60, size=30).astype(float)
    clustered = plain = 0
    for _ in range(300):
        means = draws.normal(0, 1, size=30) + draws.normal(0, 1 / np.sqrt(sizes))
        clustered += 0.0 in bootstrap_mean(means, sizes, resamples=300)
        plain += 0.0 in normal(float(sizes @ means / sizes.sum()), math.sqrt(2 / sizes.sum()))

    assert 0.89 < clustered / 300 < 0.98
    assert plain / 300 < 0.6


def test_the_bootstrap_is_scipys_bca() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    found = bootstrap_mean(values, resamples=20_000)

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 4, 9, 20, 101])
def test_student_is_scipys(n: int) -> None:
    expected = stats.t.interval(0.95, n - 1)
    found = student(0.0, 1.0, n)

    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert student_p(2.2, 1.1, n - 1) == pytest.approx(2 * stats.t.sf(2, n - 1), abs=1e-12)


def test_the_bootstrap_repeats_itself_and_knows_constants() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4]

    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)
    assert bootstrap_mean([2.0, 2.0]) == Interval(2.0, 2.0, 0.95, "bootstrap")


def metric(name: str, value: float, stderr: float | None, n: int | None = 100, unit: str = "ratio") -> Metric:
    return Metric(name=name, value=value, unit=unit, higher_is_better=True, n=n, stderr=stderr)


def test_the_interval_follows_what_the_figure_is() -> None:
    share = metric("acc", 0.3, math.sqrt(0.3 * 0.7 / 99))
    tokens = metric("top1_agreement", 0.9, 0.02, 8000)
    perplexity = metric("perplexity", 20.0, 0.4, 8000, "1")

    assert is_plain_share(share) and not is_plain_share(tokens) and not is_plain_share(perplexity)
    assert interval_of(share) == wilson(0.3, 100)
    assert interval_of(tokens) == normal(0.9, 0.02)
    assert interval_of(perplexity) == in_logarithm(20.0, 0.4)
    assert interval_of(metric("bpw", 4.5, None, None, "bits")) is None


def test_the_interval_of_a_text_knows_how_few_its_windows_are() -> None:
    tokens, perplexity = metric("top1_agreement", 0.9, 0.02, 6141), metric("perplexity", 20.0, 0.4, 6141, "1")
    windows = {"clusters": 3}
    share, ppl = interval_of(tokens.model_copy(update=windows)), interval_of(perplexity.model_copy(update=windows))
    reach = stats.t.ppf(0.975, 2)

    assert share is not None and (share.high - 0.9) / 0.02 == pytest.approx(reach)
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
        lambda: matched_pairs(6, 5, 10),
        lambda: bootstrap_mean([1.0]),
        lambda: bootstrap_mean([1.0, 2.0], [1.0, 0.0]),
        lambda: normal(0, 1, confidence=95),
        lambda: in_logarithm(0, 1),
    ],
)
def test_nonsense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        wrong()  # type: ignore[operator]
