"""Intervals of means hold the truth about as often as they say, for values as skewed as real ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from slmquant.analysis.means import BootstrapMean, IndependentMeans, equivalence_p, smallest_seen

SAMPLES = 400
"""Of each kind: a coverage of 0.93 is then known to ± 0.026 (two standard errors)."""

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def lognormal(draws: np.random.Generator, n: int) -> NDArray[np.float64]:
    return draws.lognormal(0, 1, n) - math.exp(0.5)


def heavy_on_both_sides(draws: np.random.Generator, n: int) -> NDArray[np.float64]:
    return draws.lognormal(0, 1, n) - draws.lognormal(0, 1, n)


def jumps(share: float) -> Draw:
    return lambda draws, n: draws.normal(0, 0.1, n) + (draws.random(n) < share) - share


def covered(draw: Draw, n: int) -> float:
    draws = np.random.default_rng(n)
    held = 0
    for _ in range(SAMPLES):
        found = BootstrapMean(tuple(draw(draws, n)), resamples=399).interval()
        held += found is None or 0.0 in found  # without an interval nothing is said
    return held / SAMPLES


@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize(
    ("draw", "least"), [(lognormal, 0.9), (heavy_on_both_sides, 0.925), (lambda d, n: d.normal(size=n), 0.925)]
)
def test_the_bootstrap_covers_skewed_means(draw: Draw, least: float, n: int) -> None:
    """Lognormal values: 93 to 95 %, where BCa covers 86 to 91 % and Student's t 88 to 93 %."""
    assert covered(draw, n) > least


@pytest.mark.parametrize(("share", "n"), [(0.1, 50), (0.03, 200), (0.1, 200)])
def test_the_bootstrap_covers_rare_jumps_where_the_sample_holds_some(share: float, n: int) -> None:
    assert covered(jumps(share), n) > 0.925


def test_rare_jumps_cannot_be_known_from_few_items() -> None:
    """Why there is no verdict from fewer than `FEWEST_ITEMS`: a third of samples of 20 holds no jump in ten."""
    assert covered(jumps(0.03), 20) < 0.92


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3, 0.6])
@pytest.mark.parametrize("n", [12, 40])
def test_interval_and_p_are_one_test(shift: float, n: int) -> None:
    for seed in range(6):
        found = BootstrapMean(tuple(np.random.default_rng(seed).exponential(size=n) - 1 + shift))
        p, interval = found.p_value(), found.interval()

        assert p is not None and interval is not None
        assert (0.0 in interval) == (p >= 0.05)
        assert found.mean in interval


def test_the_bootstrap_repeats_itself_and_says_nothing_of_constants() -> None:
    values = tuple(np.random.default_rng(0).exponential(size=30))

    assert BootstrapMean(values).interval() == BootstrapMean(values).interval()
    assert BootstrapMean(values, seed=1).interval() != BootstrapMean(values).interval()
    assert BootstrapMean((2.0, 2.0)).interval() is None and BootstrapMean((2.0, 2.0)).p_value() is None
    with pytest.raises(ValueError, match="two or more"):
        BootstrapMean((1.0,))


def test_equivalence_is_two_one_sided_tests() -> None:
    """Small p exactly where the 90 % interval lies within the margin."""
    for mean, stderr in ((0.0, 0.004), (0.003, 0.004), (0.003, 0.005), (-0.008, 0.001), (0.012, 0.001)):
        found = IndependentMeans(mean, stderr)
        interval, p = found.interval(0.9), equivalence_p(found, 0.01)

        assert interval is not None and p is not None
        assert (interval.low > -0.01 and interval.high < 0.01) == (p < 0.05)


def test_what_could_have_been_seen_is_seen_in_four_of_five_tries() -> None:
    draws, n = np.random.default_rng(2), 30
    shift = smallest_seen(1 / math.sqrt(n), n - 1, 0.05, 0.8)
    assert shift is not None
    samples = draws.normal(shift, 1, size=(4000, n))
    shown = np.abs(samples.mean(1)) / (samples.std(1, ddof=1) / math.sqrt(n)) > 2.045

    assert shown.mean() == pytest.approx(0.8, abs=0.02)
    assert smallest_seen(None, None, 0.05, 0.8) is None
