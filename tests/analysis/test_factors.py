"""Effects of factors over blocks: planted effects are found, planted nothing is not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from slmquant.analysis.factors import Study, sign_flip_p, study
from slmquant.errors import StoreError
from slmquant.report.factors import footnotes, summary
from slmquant.store.record import Record
from tests import invented

CELL = ("rtn", "W8A8")
BASE = ("base", "base")
_REFERENCE = invented.record("none", "W16A16")
_QUANTIZED = invented.record(*CELL)


def model(
    arm: tuple[str, str], block: int, divergence: float, loss: float = 3.0, tokens: int = 1000, key: str = "00000000",
    cell: tuple[str, str] = CELL,
) -> list[Record]:  # fmt: skip
    name = f"lab-{arm[0]}-{arm[1]}-{block}-{key}"
    perplexity = invented.metric("perplexity", math.exp(loss), invented.TEXT).model_copy(update={"n": tokens})
    kl = invented.metric("kl_mean", divergence, invented.TEXT, unit="nats").model_copy(update={"n": tokens})
    spec = _QUANTIZED.spec.model_copy(update={"model": name, "method": cell[0], "scheme": cell[1]})
    return [
        _REFERENCE.model_copy(
            update={"spec": _REFERENCE.spec.model_copy(update={"model": name}), "metrics": (perplexity,)}
        ),
        _QUANTIZED.model_copy(update={"spec": spec, "metrics": (kl,)}),
    ]


def simulated(
    effects: Mapping[tuple[str, str], float], blocks: int, rng: np.random.Generator, spread: float = 0.1
) -> Study:
    """Logarithms of divergences: a block's, a level's, and a model's own."""
    records = []
    for block in range(blocks):
        shift = rng.normal(0, 1.0)
        for arm, effect in {BASE: 0.0, **effects}.items():
            records += model(arm, block, math.exp(shift + effect + rng.normal(0, spread)))
    return study(records)


def test_what_blocks_share_cancels_and_the_ratio_remains() -> None:
    records = [
        record
        for block, shift in enumerate((0.01, 0.5, 0.07))
        for arm, ratio, loss in ((BASE, 1.0, 3.0), (("position", "nope"), 1.5, 3.25))
        for record in model(arm, block, shift * ratio, loss)
    ]
    (found,) = study(records).effects

    assert math.exp(found.divergence.value) == pytest.approx(1.5)
    assert found.loss.value == pytest.approx(0.25)
    assert (found.divergence.n, found.p) == (3, 0.25)


def test_tokenizers_are_compared_over_the_whole_text() -> None:
    records = model(BASE, 0, 0.1, 3.0, 1000) + model(("vocabulary", "large"), 0, 0.2, 6.0, 500)
    (found,) = study(records).effects

    assert found.divergence.value == pytest.approx(0.0)
    assert found.loss.value == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("differences", "p"), [((1.0,), 1.0), ((1.0, 2.0, 3.0), 0.25), ((1.0, 2.0, -3.0), 1.0), ((3.0, 2.0, -1.0), 0.5)]
)
def test_the_p_is_a_share_of_all_signs(differences: tuple[float, ...], p: float) -> None:
    assert sign_flip_p(differences) == p


def test_intervals_hold_the_planted_effect_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [simulated({("tied", "no"): 0.3}, 5, rng).effects[0].divergence.interval for _ in range(300)]
    held = sum(interval is not None and 0.3 in interval for interval in intervals)

    assert 0.92 <= held / 300 <= 0.98


def test_factors_without_effect_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(1)
    nothing = {("tied", "no"): 0.0, ("norm", "layer"): 0.0, ("position", "nope"): 0.0}
    wrong = sum(min(one.p_corrected for one in simulated(nothing, 8, rng).effects) <= 0.05 for _ in range(200))

    assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_the_least_visible_effect_is_seen_in_four_of_five_studies() -> None:
    rng = np.random.default_rng(2)
    blocks, spread = 6, 0.1
    truth = (2.571 + 0.920) * spread * math.sqrt(2 / blocks)  # Student's quantiles, 5 degrees of freedom
    studies = [simulated({("tied", "no"): truth}, blocks, rng, spread).effects[0] for _ in range(200)]
    seen = sum(one.divergence.interval is not None and 0 not in one.divergence.interval for one in studies)

    assert 0.7 <= seen / 200 <= 0.9
    assert np.median([one.smallest or 0 for one in studies]) == pytest.approx(truth, rel=0.1)


def test_the_placebo_comes_first_and_is_not_corrected() -> None:
    effects = {("position", "nope"): 1.0, ("tied", "no"): 1.0, ("placebo", "another_start"): 1.0}
    found = simulated(effects, 4, np.random.default_rng(3)).effects

    assert [one.factor for one in found] == ["placebo", "position", "tied"]
    assert [one.p_corrected for one in found] == [0.125, 0.25, 0.25]


def test_too_few_blocks_are_told() -> None:
    found = simulated({("tied", "no"): 5.0}, 3, np.random.default_rng(4))

    assert found.least_p == 0.25
    assert footnotes(found)[-1] == (
        "3 blocks and 1 levels can show no corrected p below 0.25: add seeds to tell effects apart"
    )


def test_a_block_without_a_cell_is_left_out_and_told() -> None:
    records = [record for block in range(3) for arm in (BASE, ("tied", "no")) for record in model(arm, block, 0.1)]
    found = study(records[:-1])

    assert found.effects[0].divergence.n == 2
    assert "tied no: without blocks 2, where cells of it or the base are missing" in found.remarks


def test_a_cell_that_a_level_never_has_is_left_out_and_told() -> None:
    records = [record for block in range(2) for arm in (BASE, ("tied", "no")) for record in model(arm, block, 0.1)]
    more = [record for block in range(2) for record in model(BASE, block, 0.3, cell=("gptq", "W4A16"))]
    found = study(records + more)

    assert list(found.effects[0].cells) == ["rtn/W8A8"]
    assert "tied no: without gptq/W4A16, which only one of it and the base has" in found.remarks


def test_cells_of_two_plans_are_not_mixed() -> None:
    with pytest.raises(
        StoreError, match="lab-base-base-0-00000000 and lab-base-base-0-11111111 are of different plans"
    ):
        study(model(BASE, 0, 0.1) + model(BASE, 0, 0.1, key="11111111"))


@pytest.mark.parametrize(
    ("records", "message"),
    [([_QUANTIZED], "no cells of a laboratory"), (model(BASE, 0, 0.1), "no level"), ([], "no cells")],
)
def test_cells_without_a_comparison_are_refused(records: list[Record], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        study(records)


def test_a_row_says_ratio_interval_p_and_what_could_be_seen() -> None:
    found = simulated({("tied", "no"): math.log(2)}, 6, np.random.default_rng(5), 0.01)
    (row,) = summary(found)

    assert row[:2] == ("tied", "no")
    assert row[2].startswith(("× 1.9", "× 2.0"))
    assert row[3] == "0.031"
    assert row[4] == "6"
    assert row[7] == "+0.0%"
