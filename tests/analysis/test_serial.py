from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from slmquant.analysis.intervals import student_quantile
from slmquant.analysis.serial import series_mean

WINDOWS = (4, 8, 16, 32, 148)
SERIES = 1500
"""Simulated texts of each kind: a coverage of 0.95 is then known to ± 0.011 (two standard errors)."""


def autoregressive(windows: int, correlation: float, seed: int = 0) -> NDArray[np.float64]:
    """Texts whose neighbouring windows correlate, with mean 0; `(series, windows)`."""
    drawn = np.random.default_rng(seed).standard_normal((SERIES, windows))
    for at in range(1, windows):
        drawn[:, at] = correlation * drawn[:, at - 1] + math.sqrt(1 - correlation**2) * drawn[:, at]
    return drawn


def articles(windows: int, share: float, length: float, seed: int = 0) -> NDArray[np.float64]:
    """Texts of articles of random length (mean `length` windows), each with a level of its own, and noise per window.

    `share` is the variance of the levels, that of the noise 1 − share. An article may begin within a window.
    """
    parts = 8
    draws, found = np.random.default_rng(seed), np.empty((SERIES, windows))
    for row in range(SERIES):
        begins = draws.random(windows * parts) < 1 / (length * parts)
        levels = draws.standard_normal(windows * parts)[np.cumsum(begins)]
        noise = draws.standard_normal(windows)
        found[row] = math.sqrt(share) * levels.reshape(windows, parts).mean(1) + math.sqrt(1 - share) * noise
    return found


def neighbours(series: NDArray[np.float64]) -> float:
    return float((series[:, 1:] * series[:, :-1]).mean() / (series**2).mean())


def coverage(series: NDArray[np.float64], gap: int = 1) -> float:
    positions = (gap * np.arange(series.shape[1])).tolist()
    return statistics.fmean(0.0 in series_mean(row.tolist(), None, positions).interval() for row in series)  # type: ignore[operator]


def as_if_independent(series: NDArray[np.float64]) -> float:
    n = series.shape[1]
    reach = student_quantile(n) * series.std(axis=1, ddof=1) / math.sqrt(n)
    return float((abs(series.mean(axis=1)) <= reach).mean())


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("correlation", [0.25, 0.45])
def test_intervals_cover_where_neighbours_correlate(windows: int, correlation: float) -> None:
    """Nominal 95 %: never below 93.5 %, which is 95 but for the simulation's own error; few windows are on the safe
    side, as what they cannot say is assumed, and many come near."""
    series = autoregressive(windows, correlation)
    assert coverage(series) > 0.935
    assert windows < 100 or coverage(series) < 0.98
    assert as_if_independent(series) < 0.93, "the error of independent draws is what this mends"


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize(("share", "length"), [(0.4, 2.4), (0.62, 2.4), (0.5, 3.0)])
def test_intervals_cover_where_articles_hang_together(windows: int, share: float, length: float) -> None:
    series = articles(windows, share, length)
    assert 0.24 < neighbours(series) < 0.48
    assert coverage(series) > 0.935
    assert windows < 100 or coverage(series) < 0.98


@pytest.mark.parametrize("windows", WINDOWS)
def test_windows_spread_over_a_text_are_nearly_independent_draws(windows: int) -> None:
    """Every sixth window of long texts: intervals cover, and are little wider than those of independent draws."""
    series = autoregressive(6 * windows, 0.45)[:, ::6]
    assert 0.935 < coverage(series, gap=6) < 0.98
    places = (6 * np.arange(windows)).tolist()
    intervals = [series_mean(row.tolist(), None, places).interval() for row in series]
    wide = statistics.fmean(one.high - one.low for one in intervals if one is not None)
    narrow = 2 * student_quantile(windows) * float(series.std(axis=1, ddof=1).mean()) / math.sqrt(windows)
    assert 1 <= wide / narrow < 1.35


def test_far_apart_it_is_the_error_of_independent_draws() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 5.5]
    found = series_mean(values, None, [0, 100, 200, 300, 400])
    assert found.mean == pytest.approx(3.0)
    assert found.stderr == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert found.freedom == pytest.approx(4)
    assert found.p_value(1.0) == pytest.approx(stats.ttest_1samp(values, 1.0).pvalue)


def test_windows_count_by_their_weights() -> None:
    """The error of a ratio of sums: √(n/(n−1) · Σ (w (x − mean))²) / Σw for windows far apart, and nothing for 0."""
    values, weights, places = [1.0, 2.0, 6.0, 9.0], [1.0, 3.0, 2.0, 0.0], [0, 100, 200, 300]
    found = series_mean(values, weights, places)
    assert found.mean == pytest.approx(19 / 6)
    around = [w * (x - found.mean) for x, w in zip(values, weights, strict=True)]
    assert found.stderr == pytest.approx(math.sqrt(4 / 3 * sum(a * a for a in around)) / 6)


def test_the_order_of_windows_is_that_of_the_text() -> None:
    values = [0.0, 1.0, 5.0, 6.0, 5.5, 0.5]
    mixed = [3, 0, 5, 1, 4, 2]
    assert series_mean([values[at] for at in mixed], None, mixed) == series_mean(values)


def test_a_single_window_has_no_error_and_two_say_little() -> None:
    alone = series_mean([2.5])
    assert (alone.mean, alone.stderr, alone.interval(), alone.p_value()) == (2.5, None, None, None)
    both = series_mean([2.0, 3.0]).interval()
    assert both is not None and both.high - both.low > 2 * student_quantile(2) * 0.5


@pytest.mark.parametrize(
    ("values", "weights", "places"), [([], None, None), ([1.0, 2.0], [1.0], None), ([1.0, 2.0], None, [4, 4])]
)
def test_what_is_no_series_is_refused(
    values: list[float], weights: list[float] | None, places: list[int] | None
) -> None:
    with pytest.raises(ValueError, match="give"):
        series_mean(values, weights, places)
