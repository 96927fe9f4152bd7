"""Figures of means over windows: their errors are those of `series_mean`, and what moves together cancels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmquant.analysis.serial import series_mean
from slmquant.analysis.window_means import Array, WindowMeans, logs, ratio

PLACES = (0, 7, 14, 21, 28, 35)


def drawn(seed: int, series: int = 2) -> Array:
    return np.random.default_rng(seed).uniform(1, 2, (series, len(PLACES)))


def test_a_mean_has_the_interval_of_a_series_mean() -> None:
    values = drawn(0)

    found = WindowMeans((values,), (PLACES,)).figure(lambda x: x[1])

    expected = series_mean(values[1].tolist(), positions=PLACES)
    span = expected.interval()
    assert span is not None and found.interval is not None
    assert found.value == pytest.approx(expected.mean)
    assert (found.interval.low, found.interval.high) == pytest.approx((span.low, span.high))


def test_a_ratio_of_what_moves_together_is_exact_however_much_it_moves() -> None:
    level = drawn(1, 1)[0]

    found = WindowMeans((np.stack([3 * level, level]),), (PLACES,)).positive(lambda x: ratio(x[0], x[1]))

    assert found.value == pytest.approx(3)
    assert found.interval is not None
    assert found.interval.high - found.interval.low < 1e-6


def test_the_error_of_a_logarithm_is_the_relative_error() -> None:
    values = drawn(2)
    plain, log = (WindowMeans((values,), (PLACES,)).figure(of) for of in (lambda x: x[0], lambda x: logs(x[0])))

    assert plain.interval is not None and log.interval is not None
    width = (plain.interval.high - plain.interval.low) / plain.value
    assert log.interval.high - log.interval.low == pytest.approx(width, rel=1e-6)


def test_texts_count_alike_and_their_errors_add_in_squares() -> None:
    texts = (drawn(3), drawn(4)[:, :5])
    places = (PLACES, PLACES[:5])

    found = WindowMeans(texts, places).figure(lambda x: x[0])

    alone = [series_mean(one[0].tolist(), positions=where) for one, where in zip(texts, places, strict=True)]
    assert found.value == pytest.approx((alone[0].mean + alone[1].mean) / 2)
    assert found.interval is not None
    errors = [one.stderr or 0.0 for one in alone]
    reach = (found.interval.high - found.interval.low) / 2
    assert 1.9 * math.hypot(*errors) / 2 < reach < 2.8 * math.hypot(*errors) / 2


def test_without_enough_windows_or_a_finite_figure_there_is_no_interval() -> None:
    few = WindowMeans((drawn(5)[:, :3],), (PLACES[:3],)).figure(lambda x: x[0])
    assert few.interval is None and few.value > 1

    negative = WindowMeans((-drawn(5),), (PLACES,))
    assert math.isnan(negative.figure(lambda x: logs(x[0])).value)
    assert negative.positive(lambda x: x[0]).interval is None
    assert not few.exceeds(0) and not few.is_below(10)
