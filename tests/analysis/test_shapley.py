"""Shapley values and effects of a full factorial, against their definitions."""

import itertools
import math

import numpy as np
import pytest

from slmquant.analysis.shapley import effect_weights, shapley_weights


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_shapley_value_is_the_mean_contribution_over_all_orders(count: int) -> None:
    values = np.random.default_rng(count).random(2**count)
    expected = np.zeros(count)
    for order in itertools.permutations(range(count)):
        cell = 0
        for factor in order:
            expected[factor] += values[cell | 1 << factor] - values[cell]
            cell |= 1 << factor

    found = shapley_weights(count) @ values

    np.testing.assert_allclose(found, expected / math.factorial(count))
    assert found.sum() == pytest.approx(values[-1] - values[0])


def test_of_contributions_that_add_up_it_is_what_each_causes_alone() -> None:
    parts = np.array([0.5, 0.02, 0.1, 0.3])
    values = np.array([sum(parts[i] for i in range(4) if cell >> i & 1) for cell in range(16)])

    np.testing.assert_allclose(shapley_weights(4) @ values, parts)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_effects_of_a_product_are_its_factors_and_nothing_interacts(count: int) -> None:
    factors = [3.0, 1.5, 0.5, 2.0][:count]
    logs = np.log([0.01 * math.prod(f for i, f in enumerate(factors) if cell >> i & 1) for cell in range(1, 2**count)])

    found = {which: float(weights @ logs) for which, weights in effect_weights(count).items()}

    for factor in range(count):
        assert found[factor,] == pytest.approx(math.log(factors[factor]))
    pairs = [effect for which, effect in found.items() if len(which) == 2]
    assert len(pairs) == (math.comb(count, 2) if count > 2 else 0)
    assert all(abs(effect) < 1e-9 for effect in pairs)


def test_an_interaction_is_what_one_does_to_the_effect_of_the_other() -> None:
    logs = np.array([0.7 * (cell & 1) + 0.4 * (cell & 3 == 3) for cell in range(1, 16)])

    found = {which: float(weights @ logs) for which, weights in effect_weights(4).items()}

    assert found[0, 1] == pytest.approx(0.4)
    assert found[0,] == pytest.approx(0.7 + 0.4 / 2)
    assert found[2,] == pytest.approx(0, abs=1e-9)


def test_one_factor_has_no_effects_to_tell_apart() -> None:
    with pytest.raises(ValueError, match="at least two"):
        effect_weights(1)
