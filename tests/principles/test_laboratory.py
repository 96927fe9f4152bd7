"""Matched models of a laboratory as evidence: the sample are the seeds, and few of them tell nothing."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from slmquant import principles
from slmquant.principles.common.laboratory import FEWEST_SEEDS, gathered
from slmquant.principles.common.verdicts import InModel
from slmquant.principles.common.windows import change, compared
from slmquant.store.jsonlines import read_cells
from slmquant.store.record import CellSpec, TaskSpec
from tests import invented
from tests.principles.planted import Planted

SMALL = Path(__file__).parents[2] / "results" / "published" / "lab" / "small.jsonl"
TEXT = TaskSpec(name="wikitext2", limit=48)


def add(cells: Planted, level: str, seed: int, divergence: float, cell: str = "rtn/W4A16g32", key: str = "0a") -> None:
    """A cell of the model of a level, `factor-level`."""
    method, scheme = cell.split("/")
    spec = CellSpec(
        model=f"lab-{level}-{seed}-{key}", model_sha256=f"{level} {seed} {key}", method=method, scheme=scheme,
        tasks=(TEXT,),
    )  # fmt: skip
    cells.add(spec, [invented.metric("kl_mean", divergence, str(TEXT), n=6000, unit="nats")], [])


def plant(
    level: str, other: str, ratio: float, seeds: int, cells: tuple[str, ...] = ("rtn/W4A16g32",), spread: float = 0.05
) -> Planted:
    """Models of two levels in several seeds, the second with so many times the divergence of the first."""
    drawn, planted = random.Random(seeds), Planted()
    for seed in range(seeds):
        for cell in cells:
            first = 0.1 * math.exp(drawn.gauss(0, 1))
            add(planted, level, seed, first, cell)
            add(planted, other, seed, first * ratio * math.exp(drawn.gauss(0, spread)), cell)
    return planted


def judged(name: str, cells: Planted) -> InModel:
    (of_model,) = cells.judged(principles.load(name))[0].models
    return of_model


@pytest.mark.parametrize(
    ("name", "levels", "cell"),
    [
        ("depth", ("depth-wide", "depth-deep"), "gptq/W3A16g32"),
        ("cache_sharing", ("base-base", "key_heads-mqa"), "rtn/W16A16KV4"),
        ("training_length", ("tokens-quarter", "base-base"), "rtn/W4A16g32"),
    ],
)
@pytest.mark.parametrize(("ratio", "verdict"), [(1.5, "holds"), (1.0, "fails")])
def test_an_effect_over_seeds_bears_the_rule_out_or_refutes_it(
    name: str, levels: tuple[str, str], cell: str, ratio: float, verdict: str
) -> None:
    found = judged(name, plant(*levels, ratio, seeds=10, cells=(cell,)))

    assert (found.model, found.verdict, found.found.n, found.found.counted) == ("laboratory", verdict, 10, "seeds")
    assert found.effect is not None and found.interval is not None
    assert math.exp(found.effect) == pytest.approx(ratio, rel=0.1)
    assert found.effect in found.interval and math.log(ratio) in found.interval


def test_few_seeds_tell_nothing_and_their_number_is_said() -> None:
    found = judged("depth", plant("depth-wide", "depth-deep", 5.0, seeds=FEWEST_SEEDS - 1))

    assert found.verdict == "cannot tell" and found.effect is None
    assert found.found.findings[0].n == FEWEST_SEEDS - 1
    assert found.found.remarks == ("4 seeds; a verdict takes 5",)


def test_the_interval_is_over_seeds_however_many_cells_each_has() -> None:
    cells = ("rtn/W4A16g32", "rtn/W8A8", "gptq/W4A16g32")
    found = judged("depth", plant("depth-wide", "depth-deep", 1.5, seeds=6, cells=cells))

    assert found.found.n == 6
    assert {finding.n for finding in found.found.findings} == {6} and len(found.found.findings) == 3


def test_other_factors_and_other_cells_are_no_evidence() -> None:
    untied = judged("depth", plant("base-base", "tied-untied", 2.0, seeds=10))
    in_four_bits = judged("cache_sharing", plant("base-base", "key_heads-mqa", 2.0, seeds=10))

    for found, plan in ((untied, "lab"), (in_four_bits, "lab-cache")):
        assert found.verdict == "cannot tell" and not found.found.findings
        assert found.found.needs[0].command == f"slmquant lab plans/{plan}.yaml"


def test_a_third_of_the_steps_is_not_a_quarter() -> None:
    assert not judged("training_length", plant("tokens-third", "base-base", 3.0, seeds=10)).found.findings


def test_a_seed_that_lacks_a_level_is_left_out() -> None:
    cells = plant("depth-wide", "depth-deep", 1.5, seeds=8)
    add(cells, "depth-wide", 8, 0.1)

    assert judged("depth", cells).found.n == 8


def test_models_of_two_plans_are_no_evidence() -> None:
    cells = plant("depth-wide", "depth-deep", 1.5, seeds=8)
    add(cells, "depth-wide", 0, 0.3, key="0b")
    found = judged("depth", cells)

    assert found.verdict == "cannot tell"
    assert "different plans" in found.found.remarks[0]


def test_rules_about_one_model_are_tried_on_the_base_over_its_seeds() -> None:
    cells = Planted(noise=0.02)
    for seed in range(6):
        for cell, divergence in (("rtn/W4A16g32", 0.2), ("gptq/W4A16g32", 0.1)):
            cells.cell(cell, divergence, model=f"lab-base-base-{seed}-0a")
            cells.cell(cell, divergence * 5, model=f"lab-depth-deep-{seed}-0a")
    rule = principles.load("zero_points")
    gained = compared(change("rtn/W4A16g32", "gptq/W4A16g32"))
    (of_model,) = cells.judged(type(rule)(rule.rule, rule.source, rule.prediction, gained))[0].models

    assert of_model.verdict == "holds" and of_model.found.n == 6 and of_model.found.counted == "seeds"
    assert of_model.effect == pytest.approx(math.log(0.5), abs=0.05)


def test_a_laboratory_stands_beside_other_models() -> None:
    cells = plant("depth-wide", "depth-deep", 1.5, seeds=6)
    cells.cell("rtn/W4A16g32", 0.2)
    models = gathered(cells.models())

    assert [model.model for model in models] == ["invented-135m", "laboratory"]


def test_published_cells_of_three_seeds_tell_nothing() -> None:
    records, items = read_cells(SMALL)
    verdicts = {one.name: one.verdict for one in principles.judged(records, items.__getitem__)}

    assert {verdicts[name] for name in ("depth", "cache_sharing", "training_length")} == {"cannot tell"}
