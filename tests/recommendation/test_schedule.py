"""What is measured next: the most promising first, nothing hopeless, nothing that does not fit; half goes on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from slmquant.recommendation.answer import Ruled
from slmquant.recommendation.evidence import Evidence, gather
from slmquant.recommendation.prior import BITS, Prior, gains_of
from slmquant.recommendation.question import ask
from slmquant.recommendation.racing import halved, still_racing
from slmquant.recommendation.schedule import Schedule, Sizing
from slmquant.recommendation.space import Proposal, proposals
from tests.recommendation import simulated
from tests.recommendation.simulated import Cell, cell, divergences, reference

PARAMETERS = 100_000_000
SIZES = {"Q8_0E8": 107_000_000, "Q5_0E8": 75_000_000, "Q4_0E8": 62_000_000}


def evidence_of(cells: Sequence[Cell]) -> Evidence:
    return gather([record for record, _ in cells], {r.cell_id: i for r, i in cells}, simulated.MODEL, None)


def schedule(**asked: object) -> Schedule:
    question = ask(simulated.MODEL, engine="llamacpp", **asked)  # type: ignore[arg-type]  # constraints
    return Schedule(question, Sizing(SIZES, {"hqq/Q4_0E8": "no such grid"}, PARAMETERS), Prior())


def tried() -> list[Proposal]:
    return [Proposal(method, scheme) for scheme in SIZES for method in ("rtn", "gptq_mse", "hqq")]


def test_the_most_promising_that_fits_comes_first() -> None:
    plan = schedule(max_bytes="80MB")

    waiting = plan.open([*tried(), Proposal("slmq", None, 80_000_000)], evidence_of([reference()]))

    assert [one.label for one in waiting[:2]] == ["slmq/types for 80000000 bytes", "gptq_mse/Q5_0E8"]
    assert plan.left_out["rtn/Q8_0E8"].by == "--max-bytes at most 80 MB"
    assert plan.left_out["rtn/Q8_0E8"].reason == "107 MB"
    assert plan.left_out["hqq/Q4_0E8"].reason == "no such grid"


def test_with_a_divergence_asked_the_smallest_that_should_have_it_comes_first() -> None:
    plan = schedule(max_divergence=0.1)
    plan.prior = Prior(level=math.log(0.05) + BITS * 8 * SIZES["Q5_0E8"] / PARAMETERS)  # rtn has 0.05 nats there

    waiting = plan.open(tried(), evidence_of([reference()]))

    assert [one.label for one in waiting if one.method == "rtn"] == ["rtn/Q5_0E8", "rtn/Q8_0E8", "rtn/Q4_0E8"]


def test_what_is_measured_is_not_tried_again() -> None:
    measured = cell("rtn", "Q5_0E8", divergences(0.2), SIZES["Q5_0E8"])

    waiting = schedule(max_bytes="80MB").open(tried(), evidence_of([reference(), measured]))

    assert "rtn/Q5_0E8" not in {one.label for one in waiting}
    assert Proposal("rtn", "Q5_0E8").is_measured(evidence_of([measured]))


def test_what_is_far_worse_by_prediction_is_left_out_with_the_figures() -> None:
    plan = schedule(max_bytes="110MB")
    known = evidence_of([reference(), cell("rtn", "Q8_0E8", divergences(0.004), SIZES["Q8_0E8"])]).sized(SIZES)
    plan.learned(known)

    assert plan.is_pointless(Proposal("rtn", "Q4_0E8"), known)
    assert not plan.is_pointless(Proposal("gptq_mse", "Q8_0E8"), known)
    assert plan.left_out["rtn/Q4_0E8"].by == "prediction"
    assert "reached already" in plan.left_out["rtn/Q4_0E8"].reason


def test_a_rule_leaves_out_proposals_with_its_reason() -> None:
    plan = schedule(max_bytes="80MB")
    plan.rules = [
        lambda several, _: [
            Ruled(label=one.label, by="plain_is_enough", reason="because") for one in several if one.method != "rtn"
        ]
    ]

    waiting = plan.open(tried(), evidence_of([reference()]))

    assert {one.method for one in waiting} == {"rtn"}
    assert plan.left_out["gptq_mse/Q5_0E8"].by == "plain_is_enough"
    assert "gptq_mse/Q8_0E8" in plan.left_out and plan.left_out["gptq_mse/Q8_0E8"].by.startswith("--max-bytes")


def test_candidates_leave_the_race_when_their_windows_show_it() -> None:
    several = evidence_of(
        [
            reference(),
            cell("gptq", "Q4_0", divergences(0.1, 16), 1),
            cell("awq", "Q4_0", divergences(0.101, 16, seed=3), 1),
            cell("rtn", "Q4_0", divergences(0.3, 16), 1),
        ]
    ).candidates

    assert {one.candidate.method for one in still_racing(several)} == {"gptq", "awq"}


def test_equal_candidates_are_seldom_dropped_however_often_one_looks() -> None:
    dropped, races = 0, 100
    for race in range(races):
        draw = random.Random(race)
        kl = [[draw.lognormvariate(0, 0.5) for _ in range(64)] for _ in range(2)]
        for windows in (4, 8, 16, 32, 64):
            cells = [cell(f"m{n}", "Q4_0", values[:windows], 1) for n, values in enumerate(kl)]
            if len(still_racing(evidence_of(cells).candidates)) < 2:
                dropped += 1
                break
    assert dropped / races <= 0.08


def test_half_of_the_race_goes_on_and_what_is_nearly_as_good() -> None:
    close = [cell(f"m{n}", "Q4_0", divergences(0.1 + 0.001 * n, spread=0.0), 1) for n in range(4)]
    far = [cell(f"n{n}", "Q4_0", divergences(0.2 + 0.1 * n, spread=0.0), 1) for n in range(4)]
    racing = tuple(sorted(evidence_of([*close, *far]).candidates, key=lambda one: one.mean or 0))

    assert len(halved(racing)) == 4
    assert len(halved(racing[:2])) == 2
    assert halved(()) == ()


def test_gains_are_learned_from_the_models_that_are_not_asked_about() -> None:
    records = [record for record, _ in simulated.planted()]

    gains = gains_of(records)

    assert gains["rtn"] == 0
    assert gains["awq"] == pytest.approx(math.log(0.2 / 0.4), abs=0.05)
    assert gains["gptq"] < gains["awq"]
    assert gains_of(records, apart_from=simulated.MODEL) == {}


def test_the_level_of_a_model_comes_from_its_own_cells() -> None:
    prior = Prior({"rtn": 0.0}).at_level([("rtn", 4.0, 0.5), ("rtn", 8.0, 0.5 * math.exp(-4 * BITS))])

    assert prior.log_divergence("rtn", 4.0) == pytest.approx(math.log(0.5))
    assert prior.log_divergence("rtn", 5.0) == pytest.approx(math.log(0.5) - BITS)
    assert prior.gain("unknown+rtn") == 0
    assert prior.gain("unknown") < 0


def test_types_are_chosen_only_where_a_file_has_a_size() -> None:
    assert Proposal("slmq", None, 95_000_000) in proposals("gguf", 95_000_000)
    assert all(one.scheme is not None for one in proposals("gguf", None))
    assert all(one.scheme is not None for one in proposals("native", 95_000_000))
    assert proposals("onnx", None)
