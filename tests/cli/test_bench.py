"""What `slmquant bench` makes of its flags and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from slmquant.cli import bench
from slmquant.runs.plan import Plan, PlanError, read_plan_fields
from slmquant.runs.runner import Event
from tests import invented

FIELDS: Mapping[str, object] = {"models": ["tiny"], "methods": ["rtn"], "schemes": ["W8A8"]}


def planned(suite: str | None = None, tasks: list[str] | None = None) -> Plan:
    return bench._plan(None, {**FIELDS, "tasks": tasks}, {"corpus": "wikitext2_train"}, suite, None)[0]


def test_named_tasks_stand_beside_those_of_a_suite_and_in_their_place() -> None:
    alone, beside = planned("demo"), planned("demo", tasks=["gsm8k:5", "piqa:200"])

    assert [str(task) for task in alone.tasks][1:] == ["arc_easy:60", "piqa:60"]
    assert [str(task) for task in beside.tasks][1:] == ["arc_easy:60", "gsm8k:5", "piqa:200"]


def test_without_either_the_demo_is_asked() -> None:
    assert planned().tasks == planned("demo").tasks
    assert [str(task) for task in planned(tasks=["piqa"]).tasks] == ["piqa"]


def test_a_calibration_that_is_no_table_is_refused() -> None:
    with pytest.raises(PlanError, match="calibration"):
        bench._plan(None, {**FIELDS, "calibration": "c4"}, {}, None, None)


def test_what_a_cell_says_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "[enforce fail at alloc_cpu.cpp:1] no room in [/tmp/x]"
    record = invented.record("rtn", "W4A8", status="failed", reason=reason)
    bench._Teller(quiet=False)(Event("tiny/rtn/W4A8: failed", record, 1, 1))

    assert reason in capsys.readouterr().err.replace("\n", " ")


def test_a_method_is_one_whatever_its_letters_and_a_model_is_asked_once() -> None:
    plan = bench._plan(None, {**FIELDS, "models": ["tiny", "tiny"], "methods": ["RTN", "rtn"]}, {}, None, None)[0]

    assert (plan.models, plan.methods) == (("tiny",), ("rtn",))


def test_an_option_that_names_nothing_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="names nothing"):
        bench._split(" ")
    assert bench._split(None) is None and bench._split("a, b,") == ["a", "b"]


def test_a_plan_that_is_no_text_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"models: \xff\xfe")
    with pytest.raises(PlanError, match="not text in UTF-8"):
        read_plan_fields(tmp_path / "plan.yaml")
