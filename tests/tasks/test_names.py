from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from slmquant.errors import RefusedError, SlmquantError, UnknownNameError
from slmquant.store.record import TaskSpec
from slmquant.tasks import known, parse, resolve
from slmquant.tasks.common.suites import SUITES, suite


@pytest.mark.parametrize("text", ["piqa", "arc_easy:200"])
def test_a_task_reads_back_as_it_is_written(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["piqa:", "piqa:0", "piqa:-3", "piqa:many", "piqa:1.5"])
def test_an_unreadable_limit_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(SlmquantError, match="write 'piqa:100'"):
        parse(text)


@pytest.mark.parametrize("name", ["wikitext2:3@0", "generation@1"])
def test_what_has_no_items_has_no_random_order(name: str) -> None:
    with pytest.raises(SlmquantError, match=f"write '{name.partition('@')[0]}'"):
        resolve(parse(name))


def test_every_known_task_resolves_to_itself() -> None:
    for name, description in known().items():
        task = resolve(TaskSpec(name=name))
        assert task.name == name and task.description == description


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'hellaswag'"):
        resolve(TaskSpec(name="helaswag"))


def test_any_other_task_of_lm_eval_is_found() -> None:
    assert resolve(TaskSpec(name="logiqa")).name == "logiqa"


def test_a_group_of_lm_eval_is_one_task() -> None:
    assert "67 subtasks" in resolve(TaskSpec(name="blimp")).description


@pytest.mark.parametrize("name", ["ai2_arc", "mmlu_generative"])
def test_a_name_for_several_tasks_says_what_to_do(name: str) -> None:
    with pytest.raises(RefusedError, match=f"{name!r} .*name "):
        resolve(TaskSpec(name=name))


def test_suites_name_known_tasks_only() -> None:
    for name in SUITES:
        assert {task.name for task in suite(name).tasks} <= set(known())


def test_a_suites_text_is_what_can_be_had(tmp_path: Path) -> None:
    without = suite("demo", tmp_path)
    assert without.tasks[0].name == "exl_wiki" and "hub does not answer" in str(without.remark)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "wikitext2_test.txt.gz").write_bytes(gzip.compress(b" = A = \n"))
    assert suite("demo", tmp_path).tasks[0] == TaskSpec(name="wikitext2", limit=4)
    assert suite("paper", tmp_path).tasks[-1] == TaskSpec(name="wikitext2")
    with pytest.raises(UnknownNameError, match="unknown suite"):
        suite("papers")


def test_everything_means_everything_that_is_here(tmp_path: Path) -> None:
    without = suite("full", tmp_path)
    names = {task.name for task in without.tasks}
    assert {"gsm8k", "mmlu", "generation"} <= names
    assert not {"truthfulqa_mc1", "c4", "wikitext2"} & names
    assert "left out" in str(without.remark) and "truthfulqa_mc1" in str(without.remark)
    (tmp_path / "lm_eval" / "truthfulqa_mc").mkdir(parents=True)
    (tmp_path / "lm_eval" / "truthfulqa_mc" / "validation.jsonl").write_text("")
    assert "truthfulqa_mc1" in {task.name for task in suite("full", tmp_path).tasks}
