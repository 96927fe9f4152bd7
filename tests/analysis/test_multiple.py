"""A corrected table errs no more often than a single test."""

from __future__ import annotations

import numpy as np
import pytest

from slmquant.analysis.multiple import holm


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.02}) == {"a": 0.02}
    assert holm({}) == {}


def test_holm_is_the_step_down_procedure() -> None:
    """Its rejections are those of the procedure as Holm wrote it down: stop at the first p that is too large."""
    draws = np.random.default_rng(0)
    for _ in range(200):
        p = dict(enumerate(draws.beta(0.3, 1, size=8).tolist()))
        expected = set()
        for place, key in enumerate(sorted(p, key=lambda k: p[k])):
            if p[key] > 0.05 / (8 - place):
                break
            expected.add(key)

        assert {key for key, value in holm(p).items() if value <= 0.05} == expected


@pytest.mark.parametrize("dependence", [0.0, 0.9])
def test_holm_keeps_the_family_wise_error(dependence: float) -> None:
    """12 cells that are all equal to the reference, and 4 that are not: any of the 12 called different is an error."""
    from scipy import stats

    draws = np.random.default_rng(1)
    tables, cells = 2000, 16
    shared = draws.normal(size=(tables, 1))
    z = np.sqrt(dependence) * shared + np.sqrt(1 - dependence) * draws.normal(size=(tables, cells))
    z[:, 12:] += 4
    p = 2 * stats.norm.sf(abs(z))
    errors = sum(any(value <= 0.05 for k, value in holm(dict(enumerate(row))).items() if k < 12) for row in p.tolist())

    assert errors / tables <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / tables)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        holm({"a": 1.2})
