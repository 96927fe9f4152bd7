"""Paired items: interval and p of one comparison say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmquant.analysis.means import Estimate
from slmquant.analysis.pairs import Pairs


def at_any_time(first: tuple[float, ...], second: tuple[float, ...]) -> Estimate:
    items = tuple(str(item) for item in range(len(first)))
    return Pairs(items, first, second, complete=True, of_perplexity=False, of_text=False).at_any_time(is_share=True)


def answers(only_first: int, only_second: int, both: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Answers of two cells to the same items, in a random order."""
    first = np.array([1.0] * only_first + [0.0] * only_second + [1.0] * both)
    second = np.array([0.0] * only_first + [1.0] * only_second + [1.0] * both)
    order = np.random.default_rng(0).permutation(len(first))
    return tuple(first[order]), tuple(second[order])


@pytest.mark.parametrize("both", [1, 30, 400])
@pytest.mark.parametrize(("few", "many"), [(0, 0), (0, 6), (0, 9), (2, 11), (2, 14), (3, 15), (10, 40), (30, 31)])
def test_the_interval_contains_zero_exactly_if_the_test_does_not_reject_it(few: int, many: int, both: int) -> None:
    for only_first, only_second in ((few, many), (many, few)):
        estimate = at_any_time(*answers(only_first, only_second, both))
        span, p = estimate.interval(), estimate.p_value()

        assert span is not None
        assert p is not None
        assert (0.0 in span) == (p > 0.05)


def test_the_interval_covers_the_difference_at_every_moment() -> None:
    lost, won, simulations = 0.05, 0.15, 200
    draws = np.random.default_rng(5)
    missed = 0
    for _ in range(simulations):
        kinds = draws.choice(3, p=[lost, won, 1 - lost - won], size=400)
        first, second = (tuple((kinds != kind).astype(float)) for kind in (1, 0))
        spans = [at_any_time(first[:n], second[:n]).interval() for n in (10, 50, 100, 200, 400)]
        missed += any(span is None or won - lost not in span for span in spans)

    assert missed / simulations <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / simulations)
