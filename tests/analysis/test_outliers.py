"""What keeping and taming outliers shows: planted recoveries and slopes are found and covered."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmquant.analysis.outliers import dose_curves, recoveries
from slmquant.store.experiments import Ablation, AblationCell, Divergence, DoseCell, DoseResponse, Sample
from tests.analysis.test_operands import level

SERIES = 200
SAMPLES = (Sample(corpus="text", sha256="", length=512, positions=tuple(range(12))),)


class Texts:
    """Draws divergences of cells with given means; the level of a window is common to all cells."""

    def __init__(self, seed: int, noise: float) -> None:
        self._draws, self._noise = np.random.default_rng(seed), noise
        self._level = level(12, self._draws)

    def __call__(self, mean: float) -> Divergence:
        return (tuple((mean * self._level * (1 + self._noise * self._draws.standard_normal(12))).tolist()),)


def ablation(channels: float, tokens: float, random: float, seed: int = 0, noise: float = 0.05) -> Ablation:
    """Keeping recovers these shares of a divergence of 0.1, times one plus the share that is kept."""
    drawn, cells = Texts(seed, noise), list[AblationCell]()
    for share in (0.01, 0.03):
        for kept, recovered in (("channels", channels), ("tokens", tokens)):
            cells.append(AblationCell(kept=kept, share=share, seed=None, divergence=drawn(0.1 * (1 - recovered))))
            cells += [
                AblationCell(kept=f"random {kept}", share=share, seed=draw, divergence=drawn(0.1 * (1 - random)))
                for draw in range(3)
            ]
    return Ablation(scheme="W16A8", whole=drawn(0.1), cells=tuple(cells))


def test_what_outliers_recover_is_told_from_what_any_recover() -> None:
    rows = recoveries(ablation(channels=0.7, tokens=0.02, random=0.01, noise=0.01), SAMPLES)

    assert [(one.kept, one.share) for one in rows] == [
        ("channels", 0.01), ("channels", 0.03), ("tokens", 0.01), ("tokens", 0.03),
    ]  # fmt: skip
    assert [one.verdict for one in rows] == ["main cause", "main cause", "negligible", "negligible"]
    assert rows[0].largest.value == pytest.approx(0.7, abs=0.02)
    assert rows[0].beyond.value == pytest.approx(0.69, abs=0.02)


def test_intervals_cover_planted_recoveries() -> None:
    inside = [
        all(
            one.beyond.interval is not None and planted in one.beyond.interval
            for one, planted in zip(found, (0.4, 0.4, 0.05, 0.05), strict=True)
        )
        for seed in range(SERIES)
        if (found := recoveries(ablation(0.5, 0.15, 0.1, seed, 0.1), SAMPLES))
    ]
    assert np.mean(inside) > 0.915


def response(below: float, above: float, seed: int = 0, noise: float = 0.02) -> DoseResponse:
    """The logarithm of the divergence has these slopes per doubling, on either side of dose 1."""
    drawn = Texts(seed, noise)
    cells = [
        DoseCell(
            site="up_proj → down_proj",
            arm="outliers",
            dose=2.0**step,
            seed=None,
            divergence=drawn(0.1 * math.exp(step * (below if step < 0 else above))),
        )
        for step in (-4, -2, 2, 4)
    ]
    return DoseResponse(scheme="W16A8", share=0.01, whole=drawn(0.1), cells=tuple(cells))


def test_slopes_on_either_side_are_found_and_their_intervals_cover_them() -> None:
    found = [dose_curves(response(0.03, 0.2, seed, 0.1), SAMPLES)[0] for seed in range(SERIES)]

    for slopes, planted in (([one.below for one in found], 0.03), ([one.above for one in found], 0.2)):
        assert np.mean([slope.value for slope in slopes if slope is not None]) == pytest.approx(planted, abs=0.004)
        inside = [slope is not None and slope.interval is not None and planted in slope.interval for slope in slopes]
        assert np.mean(inside) > 0.92


@pytest.mark.parametrize(
    ("below", "noise", "verdict", "rises"),
    [(0.1, 0.02, "limit", True), (0.0, 0.01, "do not limit", None), (-0.1, 0.01, "do not limit", False),
     (0.027, 0.1, "cannot tell", None)],
)  # fmt: skip
def test_taming_tells_whether_outliers_limit(below: float, noise: float, verdict: str, rises: bool | None) -> None:
    (curve,) = dose_curves(response(below, 0.2, 3, noise), SAMPLES)

    assert curve.response == verdict
    assert rises is None or curve.rises == rises
    assert list(curve.ratios) == [1 / 16, 1 / 4, 4, 16]
    assert curve.ratios[16].value == pytest.approx(math.exp(0.8), rel=0.1)


def test_a_dose_that_tames_too_far_does_not_hide_one_that_helps() -> None:
    whole = response(0.15, 0.2)
    too_far = whole.cells[0].model_copy(update={"divergence": response(-0.1, 0.2).cells[0].divergence})

    (curve,) = dose_curves(whole.model_copy(update={"cells": (too_far, *whole.cells[1:])}), SAMPLES)

    assert curve.ratios[1 / 16].value > 1.3 and curve.ratios[1 / 4].value < 0.8
    assert curve.response == "limit"
    assert not curve.rises


def test_no_slope_without_doses_on_that_side() -> None:
    whole = response(0.1, 0.2)
    (curve,) = dose_curves(whole.model_copy(update={"cells": whole.cells[2:]}), SAMPLES)
    assert curve.below is None and curve.above is not None and curve.response == "cannot tell"
