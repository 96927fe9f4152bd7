"""Plans of the laboratory: what is not matched, or judged on its own training text, is refused with the reason."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from slmquant.errors import PlanError
from slmquant.lab.arms import parameters
from slmquant.lab.checks import MATCHED, make_lab_plan
from slmquant.lab.factors import FACTORS
from slmquant.lab.plan import schema
from slmquant.runs.plan_file import read_plan_file

ROOT = Path(__file__).parents[2]
PLANS = sorted((ROOT / "plans").glob("lab*.yaml"))
FIELDS: dict[str, Any] = {
    "base": {"layers": 2, "hidden": 32, "heads": 4, "key_heads": 4, "intermediate": 64, "context": 32},
    "factors": {"position": {"levels": {"nope": {"position": "nope"}}}},
    "seeds": [0, 1],
    "train": ["c4_train_a"],
    "tasks": ["wikitext2:2"],
    "methods": ["rtn"],
    "schemes": ["W8A8"],
    "calibration": {"corpus": "c4_train_a"},
}


def fields(**changes: object) -> dict[str, Any]:
    return copy.deepcopy(FIELDS) | changes


def factor(name: str, settings: dict[str, object], **more: object) -> dict[str, object]:
    return fields(factors={name: {"levels": {"other": settings}, **more}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (factor("positon", {"position": "nope"}), r"'factors': unknown factor 'positon'. Did you mean 'position'"),
        (factor("position", {"positon": "nope"}), r"'factors.position.levels.other': unknown setting 'positon'.*'posi"),
        (factor("position", {"position": "alibi"}), "levels.other': position is 'alibi': .*'rope', 'nope' or 'yarn'"),
        (factor("position", {"position": "rope"}), "the same as the base"),
        (factor("tokens", {"steps": 3, "layers": 1}), "also changes 'layers'.*may change steps"),
        (factor("position", {"position": "nope", "intermediate": 65}), "need not change 'intermediate'"),
        (factor("tied", {"tied": False, "intermediate": 32}, parameters="vary"), "need not change 'intermediate'"),
        (factor("key_heads", {"key_heads": 3}), "key_heads is 3: expected a divisor of heads, 4"),
        (factor("tied", {"tied": False}), r"not matched: 53,408 parameters, \+44.3% against.*; change its sizes, or"),
        (factor("key_heads", {"key_heads": 2}), r"not matched: 34,976 parameters, -5.5% against.*intermediate: 76, or"),
        (factor("tied", {"tied": False}, parmeters="vary"), "'factors.tied.parmeters': unknown field.*'parameters'"),
        (fields(train=["wikitext2_test", "c4_train_a"]), r"tasks\[0\]': wikitext2 judges on wikitext2_test, which 'tr"),
        (fields(calibration={"corpus": "wikitext2_test"}), "judges on wikitext2_test, which 'calibration' names"),
        (fields(tasks=["piqa:3"]), "piqa has no text to predict"),
        (fields(train=["c4_trian_a"]), r"'train\[0\]'.*c4_train_a"),
        (fields(base={"hiden": 32}), "'base.hiden': unknown field 'hiden'. Did you mean 'hidden'"),
        (fields(base={"heads": 5, "key_heads": 5}), "'base.hidden': expected a multiple of 2 × heads, 10"),
        (fields(seeds=[1]), "'seeds'"),
        (
            factor("vocabulary", {"vocabulary": 600}, parameters="vary"),
            "needs whole texts; write wikitext2 without a limit",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(given: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_lab_plan(given)


def test_an_unmatched_factor_is_taken_if_the_plan_says_that_parameters_vary() -> None:
    plan = make_lab_plan(factor("tied", {"tied": False}, parameters="vary"))

    assert [arm.level for arm in plan.arms()] == ["base", "another_start", "other"] * 2


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(json.dumps(factor("tied", {"tied": False}), indent=1))
    file = read_plan_file(path)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if '"other"' in text)

    with pytest.raises(PlanError, match=f"lab.yaml:{line}: field 'factors.tied.levels.other'"):
        make_lab_plan(file.fields, file)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_published_plans_are_matched_and_name_the_schema(path: Path) -> None:
    file = read_plan_file(path)
    plan = make_lab_plan(file.fields, file)
    base, *others = plan.arms()

    assert all(abs(parameters(arm.settings) / parameters(base.settings) - 1) <= MATCHED for arm in others[:14])
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / first.partition("$schema=")[2]).resolve() == ROOT / "docs" / "lab.schema.json"


def test_the_published_plan_asks_for_every_factor_but_the_vocabulary() -> None:
    file = read_plan_file(ROOT / "plans" / "lab.yaml")

    assert {*make_lab_plan(file.fields, file).factors, "vocabulary"} == set(FACTORS)


def test_the_published_plan_has_seeds_enough_to_tell_a_level_apart_after_correction() -> None:
    file = read_plan_file(ROOT / "plans" / "lab.yaml")
    plan = make_lab_plan(file.fields, file)
    levels = sum(len(factor.levels) for factor in plan.factors.values())

    assert 2 ** (1 - len(plan.seeds)) * levels <= 0.05


def test_the_published_schema_is_that_of_this_version() -> None:
    published = json.loads((ROOT / "docs" / "lab.schema.json").read_text(encoding="utf-8"))

    assert published == json.loads(json.dumps(schema())), "run: slmquant lab --schema > docs/lab.schema.json"
