"""Every task of our own keeps its contract, and tasks of lm-eval's do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slmquant import tasks
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.testing.contract import ContractError
from slmquant.testing.task_contract import check_task

Build = Callable[..., EvalContext]
MEASURED = ("wikitext2", "generation")
"""Tasks whose data is made up here, or their own."""


@pytest.mark.parametrize("name", [task.name for task in tasks.own_tasks()])
def test_every_task_keeps_its_contract(context: Build, name: str) -> None:
    """With data made up for it, or with a sentence that says which data is absent."""
    outcome = check_task(f"{name}:4", context(is_reference=True))

    if name in MEASURED:
        assert outcome.refusal is None
    assert outcome.refusal is None or name in outcome.refusal or "not" in outcome.refusal


def test_a_text_is_measured_beside_a_reference(context: Build) -> None:
    spec = tasks.parse("wikitext2:4")
    tasks.resolve(spec).run(context(is_reference=True), spec)

    assert check_task("wikitext2:4", context(1)).refusal is None


def test_items_of_lm_eval_are_measured(context: Build, data: Path) -> None:
    assert check_task("arc_easy:4", context(is_reference=True)).refusal is None


def test_a_task_whose_figures_wander_is_found_out(context: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context(is_reference=True)
    task = tasks.resolve(tasks.parse("wikitext2:4"))
    count = iter(range(1, 100))

    class Wandering:
        name, description, metrics, data_sha256 = task.name, task.description, task.metrics, task.data_sha256

        def run(self, given: EvalContext, spec: object) -> TaskResult:
            whole = task.run(given, tasks.parse("wikitext2:4"))
            moved = tuple(m.model_copy(update={"value": m.value + next(count)}) for m in whole.metrics)
            return TaskResult(moved, whole.data, whole.items)

    monkeypatch.setattr(tasks, "resolve", lambda _: Wandering())

    with pytest.raises(ContractError, match="wikitext2:4: gives the same figures when it is run again"):
        check_task("wikitext2:4", made)
