"""McNemar's mid-p errs as often as it says, and its interval is the same test turned round."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from slmquant.analysis.intervals import Interval
from slmquant.analysis.matched import MatchedShares, mcnemar_mid_p

SEEN = [(0, 0, 60), (0, 5, 60), (5, 0, 60), (10, 22, 1000), (11, 6, 60), (17, 0, 100), (30, 30, 400), (0, 1, 20)]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 5), (3, 9), (10, 10), (2, 40), (300, 360)])
def test_the_mid_p_counts_what_was_seen_by_half(b: int, c: int) -> None:
    exact = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    expected = exact - stats.binom.pmf(b, b + c, 0.5) if b != c else 1.0

    assert mcnemar_mid_p(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_mid_p(c, b) == mcnemar_mid_p(b, c)


@pytest.mark.parametrize(("b", "c", "n"), SEEN)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_leaves_0_out_exactly_where_the_p_is_small(b: int, c: int, n: int, confidence: float) -> None:
    """No flips against five of 60 have a p of 0.031; intervals of another test disagreed with it."""
    seen = MatchedShares(b, c, n)

    assert (0.0 in seen.interval(confidence)) == (seen.p_value() >= 1 - confidence)


@pytest.mark.parametrize(("b", "c", "n"), SEEN)
def test_the_ends_of_the_interval_have_a_p_of_5_percent(b: int, c: int, n: int) -> None:
    seen = MatchedShares(b, c, n)
    found = seen.interval()

    assert -1 <= found.low < seen.mean < found.high <= 1 or b == c == 0
    assert seen.p_value(found.low) == pytest.approx(0.05, abs=0.002)
    assert seen.p_value(found.high) == pytest.approx(0.05, abs=0.002)


def test_no_flip_at_all_is_the_rule_of_three() -> None:
    found = MatchedShares(0, 0, 300).interval()

    assert found.high == -found.low == pytest.approx(3 / 300, rel=0.02)


@cache
def interval(b: int, c: int, n: int) -> Interval:
    return MatchedShares(b, c, n).interval()


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize(("lost", "won"), [(0.1, 0.1), (0.05, 0.12), (0.0, 0.1), (0.02, 0.02)])
def test_intervals_cover_by_enumeration(n: int, lost: float, won: float) -> None:
    """Every outcome with its probability: the interval holds the truth in 94.5 % of cases or more."""
    covered = 0.0
    for m in range(n + 1):
        p_flips = float(stats.binom.pmf(m, n, lost + won))
        for c, p_won in enumerate(stats.binom.pmf(np.arange(m + 1), m, won / (lost + won))):
            if p_flips * p_won > 1e-4 and won - lost in interval(m - c, c, n):
                covered += p_flips * float(p_won)

    assert covered > 0.94


@pytest.mark.parametrize(("lost", "won"), [(0.05, 0.12), (0.02, 0.0)])
def test_intervals_cover_in_200_items(lost: float, won: float) -> None:
    draws = np.random.default_rng(0).multinomial(200, [lost, won, 1 - lost - won], size=1000)
    covered = sum(won - lost in interval(int(b), int(c), 200) for b, c, _ in draws)

    assert covered / 1000 > 0.95 - 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_what_could_have_been_seen_is_seen_in_four_of_five_tries() -> None:
    """60 items of which 27 % flip show a loss of 18 points, and no smaller one."""
    found = MatchedShares(10, 6, 60).smallest_seen(0.05, 0.8)
    assert found is not None and found == pytest.approx(0.185, abs=0.01)
    lost, won = (16 / 60 + found) / 2, (16 / 60 - found) / 2
    draws = np.random.default_rng(1).multinomial(60, [lost, won, 1 - lost - won], size=4000)
    shown = np.mean([mcnemar_mid_p(int(b), int(c)) < 0.05 for b, c, _ in draws])

    assert shown == pytest.approx(0.8, abs=0.04)
    assert MatchedShares(0, 0, 3).smallest_seen(0.05, 0.8) is None


def test_counts_that_do_not_fit_are_refused() -> None:
    for wrong in ((6, 5, 10), (-1, 0, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="disagreements"):
            MatchedShares(*wrong)
