"""Principles on cells with planted truth: what is there is found, what is not is not, contradictions are named."""

import math

import pytest

from slmquant.analysis.multiple import holm
from slmquant.principles.common.contract import NEGLIGIBLE, TENTH, Prediction, Principle
from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.principles.common.windows import change, compared, interaction, level
from tests.principles.planted import TEXT, Planted

REFUSE = Decision("refuse", Candidates(methods=("rtn",), weights=(4, 4)), "gptq is closer")
KEEP = Decision("prefer", Candidates(methods=("rtn",)), "gptq is no closer, and slower")
CLOSER = Principle(
    rule="GPTQ is closer than plain rounding.",
    source="invented",
    prediction=Prediction("divergence of GPTQ, relative to that of plain rounding", "below", -TENTH),
    evidence=compared(change("rtn/W4A16g64", "gptq/W4A16g64")),
    if_it_holds=(REFUSE,),
    if_it_fails=(KEEP,),
)
SAFE = Principle(
    rule="8-bit weights are safe.",
    source="invented",
    prediction=Prediction("divergence", "below", NEGLIGIBLE),
    evidence=compared(level("rtn/W8A16"), scale="nats"),
)


def pair(cells: Planted, factor: float, **options: object) -> None:
    cells.cell("rtn/W4A16g64", 0.4, **options)  # type: ignore[arg-type]
    cells.cell("gptq/W4A16g64", 0.4 * factor, **options)  # type: ignore[arg-type]


def test_a_planted_effect_is_found_with_its_sign_and_size() -> None:
    cells = Planted()
    pair(cells, 0.7)
    (tested,) = cells.judged(CLOSER)
    (of_model,) = tested.models

    assert tested.verdict == of_model.verdict == "holds"
    assert of_model.effect == pytest.approx(math.log(0.7), abs=0.06)
    assert of_model.interval is not None
    assert math.log(0.7) in of_model.interval
    assert of_model.found.n == 16


def test_what_makes_a_window_hard_for_every_cell_cancels() -> None:
    """Divergences of windows spread by half their size, the ratios of two cells by a twentieth."""
    cells = Planted(difficulty=0.5)
    pair(cells, 0.7)
    interval = cells.judged(CLOSER)[0].models[0].interval

    assert interval is not None
    assert interval.high - interval.low < 0.15


def test_an_effect_of_the_other_sign_fails() -> None:
    cells = Planted()
    pair(cells, 1.5)
    (tested,) = cells.judged(CLOSER)

    assert tested.verdict == "fails"
    assert tested.failed_in == ("invented-135m",)


def test_no_effect_that_is_measured_coarsely_cannot_be_told() -> None:
    cells = Planted(noise=0.5)
    pair(cells, 1.0)
    (tested,) = cells.judged(CLOSER)

    assert tested.verdict == "cannot tell"
    assert tested.decisions() == ()


def test_no_effect_that_is_measured_well_fails_as_it_is_smaller_than_the_margin() -> None:
    cells = Planted(noise=0.02)
    pair(cells, 1.0)

    assert cells.judged(CLOSER)[0].verdict == "fails"


def test_an_effect_at_the_margin_is_seldom_told_from_it() -> None:
    """The rate of false verdicts of 200 stores in which the effect is the margin."""
    told = 0
    for seed in range(200):
        cells = Planted(noise=0.2, seed=seed)
        pair(cells, math.exp(-TENTH))
        told += cells.judged(CLOSER)[0].verdict != "cannot tell"

    assert told <= 18  # of 200 at 5 %, 18 or fewer in 99 of 100 runs


def test_models_that_contradict_each_other_make_a_rule_fail_where_it_does() -> None:
    cells = Planted()
    pair(cells, 0.6, model="agrees")
    pair(cells, 1.4, model="contradicts")
    (tested,) = cells.judged(CLOSER)

    assert [of_model.verdict for of_model in tested.models] == ["holds", "fails"]
    assert tested.verdict == "fails"
    assert tested.failed_in == ("contradicts",)


def test_a_model_that_cannot_tell_does_not_contradict() -> None:
    cells = Planted()
    pair(cells, 0.6, model="agrees")
    cells.cell("rtn/W4A16g64", 0.4, model="lacks a cell")
    (tested,) = cells.judged(CLOSER)

    assert [of_model.verdict for of_model in tested.models] == ["holds", "cannot tell"]
    assert tested.verdict == "holds"


def test_the_verdict_in_a_model_decides_about_it() -> None:
    cells = Planted()
    pair(cells, 0.6, model="agrees")
    pair(cells, 1.4, model="contradicts")
    (tested,) = cells.judged(CLOSER)
    agrees, contradicts = tested.models

    assert tested.decisions(agrees.sha256) == (REFUSE,)
    assert tested.decisions(contradicts.sha256) == (KEEP,)
    assert tested.decisions("unknown") == tested.follows == (KEEP,)


def test_p_values_are_corrected_over_principles_and_models() -> None:
    cells = Planted(noise=0.3)
    pair(cells, 0.75)
    cells.cell("rtn/W8A16", 0.002)
    (alone,) = cells.judged(CLOSER)
    together, other = cells.judged(CLOSER, SAFE)

    values = [one.models[0].p_value or 1.0 for one in (together, other)]

    assert alone.models[0].p_corrected == alone.models[0].p_value == values[0]
    assert [together.models[0].p_corrected, other.models[0].p_corrected] == list(holm(dict(enumerate(values))).values())
    assert max(together.models[0].p_corrected or 0, other.models[0].p_corrected or 0) > min(values)


def test_a_level_is_compared_in_nats() -> None:
    small, large = Planted(), Planted()
    small.cell("rtn/W8A16", 0.002)
    large.cell("rtn/W8A16", 0.06)

    assert small.judged(SAFE)[0].verdict == "holds"
    assert large.judged(SAFE)[0].verdict == "fails"


def test_an_interaction_is_the_change_of_a_change() -> None:
    moved = Principle("Smoothing moves.", "invented", Prediction("x", "above", TENTH), compared(
        interaction(("rtn/W8A8", "smoothquant/W8A8"), ("rtn/W4A8", "smoothquant/W4A8"))
    ))  # fmt: skip
    cells = Planted(noise=0.02)
    for name, divergence in (
        ("rtn/W8A8", 0.03),
        ("smoothquant/W8A8", 0.015),
        ("rtn/W4A8", 0.9),
        ("smoothquant/W4A8", 0.9),
    ):
        cells.cell(name, divergence)
    (tested,) = cells.judged(moved)

    assert tested.verdict == "holds"
    assert tested.models[0].effect == pytest.approx(math.log(2), abs=0.05)


def test_texts_count_equally_and_windows_of_one_text_once() -> None:
    """C4 has the effect half, WikiText-2 none; eight windows of it are among the sixteen."""
    cells = Planted(noise=0.01)
    few, other = TEXT.model_copy(update={"limit": 8}), TEXT.model_copy(update={"name": "c4"})
    pair(cells, 1.0)
    pair(cells, 1.0, task=few)
    pair(cells, 0.25, task=other)
    of_model = cells.judged(CLOSER)[0].models[0]

    assert of_model.effect == pytest.approx(math.log(0.5), abs=0.02)
    assert of_model.found.n == 32
    assert len(of_model.found.findings) == 3


def test_a_contrast_on_the_other_side_is_an_exception() -> None:
    cells = Planted(noise=0.01)
    pair(cells, 1.2)
    pair(cells, 0.25, task=TEXT.model_copy(update={"name": "c4"}))
    (tested,) = cells.judged(CLOSER)

    assert tested.verdict == "holds"
    assert [finding.task for _, finding in tested.exceptions] == ["wikitext2:16"]


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_dtype": "float32"},
        {"device": "cuda"},
        {"seed": 1},
        {"model_sha256": "0" * 64},
        {"engine": "llamacpp"},
        {"tasks": (TEXT.model_copy(update={"limit": 12}),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_cells_that_differ_in_two_things_are_not_compared(changes: dict[str, object]) -> None:
    cells = Planted()
    cells.cell("rtn/W4A16g64", 0.4)
    cells.cell("gptq/W4A16g64", 0.2, **changes)  # type: ignore[arg-type]

    assert all(of_model.effect is None for of_model in cells.judged(CLOSER)[0].models)


def test_methods_are_compared_on_one_calibration_set_only() -> None:
    rule = Principle("A rule.", "invented", Prediction("x", "below", 0), compared(change("awq/W4A16", "gptq/W4A16")))
    cells = Planted()
    sets = [cells.cell("awq/W4A16", 0.4).spec.calibration]
    other = sets[0].model_copy(update={"seed": 1}) if sets[0] else None
    cells.cell("gptq/W4A16", 0.2, calibration=other)

    assert cells.judged(rule)[0].models[0].effect is None

    cells.cell("gptq/W4A16", 0.2)

    assert cells.judged(rule)[0].models[0].found.n == 16


def test_a_cell_that_was_measured_twice_counts_once() -> None:
    cells = Planted()
    pair(cells, 0.7)
    pair(cells, 0.7, accuracies={"piqa": [1, 0] * 10})
    found = cells.judged(CLOSER)[0].models[0].found

    assert len(found.findings) == 1
    assert found.findings[0].cells == tuple(record.cell_id for record in cells.records[2:])


def test_too_few_windows_are_left_out_and_said() -> None:
    cells = Planted()
    pair(cells, 0.5, task=TEXT.model_copy(update={"limit": 3}))
    found = cells.judged(CLOSER)[0].models[0].found

    assert found.estimate is None
    assert "3 windows of text; a verdict needs at least 4" in found.remarks[0]


def test_a_divergence_of_zero_is_left_out_and_said() -> None:
    cells = Planted()
    pair(cells, 0.0)
    found = cells.judged(CLOSER)[0].models[0].found

    assert found.estimate is None
    assert "no logarithm" in found.remarks[0]


def test_what_is_missing_has_a_command_under_the_conditions_of_the_model() -> None:
    cells = Planted()
    cells.cell("awq/W4A16g64", 0.4, model="folder/some model")
    (lack,) = cells.judged(CLOSER)[0].models[0].found.needs

    assert lack.command == (
        "slmquant bench 'folder/some model' --methods rtn,gptq --schemes W4A16g64 --tasks wikitext2:16 "
        "--dtype bfloat16 --corpus wikitext2_train --samples 128 --seq-len 512"
    )


def test_windows_that_all_agree_are_judged_by_their_number() -> None:
    for windows, verdict in ((4, "cannot tell"), (16, "holds")):
        cells = Planted(noise=0, difficulty=0)
        pair(cells, 0.5, task=TEXT.model_copy(update={"limit": windows}))
        of_model = cells.judged(CLOSER)[0].models[0]

        assert of_model.verdict == verdict
        assert of_model.interval is None
        assert of_model.p_value == 2 * 0.5**windows


def test_outdated_cells_are_not_evidence() -> None:
    cells = Planted()
    pair(cells, 0.5)
    old = cells.records[0].model_copy(update={"schema_version": 1})
    cells.records[0] = old

    assert cells.judged(CLOSER)[0].models[0].effect is None


def test_an_effect_that_cannot_be_told_says_how_many_windows_would_tell() -> None:
    coarse = Planted(noise=0.25)
    pair(coarse, 0.8)
    of_model = coarse.judged(CLOSER)[0].models[0]

    assert of_model.verdict == "cannot tell"
    assert of_model.n_needed is not None
    assert of_model.n_needed > 16

    enough = Planted(noise=0.25)
    pair(enough, 0.8, task=TEXT.model_copy(update={"limit": 3 * of_model.n_needed}))

    assert enough.judged(CLOSER)[0].verdict == "holds"
