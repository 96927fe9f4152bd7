"""The contract of tasks: reproducible figures with their n, from named data. Shipped for plug-ins, too.

In a test:

    from slmquant.testing.task_contract import check_task

    def test_my_task():
        check_task("my_task:4", context)
"""

from __future__ import annotations

import math

from slmquant import tasks
from slmquant.errors import DataError
from slmquant.store.record import Metric
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.testing.contract import ContractError, Outcome, demand, demand_described
from slmquant.versions import METRICS


def check_task(text: str, context: EvalContext) -> Outcome:
    """Check a task's contract on one model.

    The task describes itself, and its figures have a version. The hash of its data does not change. It gives finite
    figures under its own name, from named data, and the same ones when run again; if its data is missing, it says so.

    Args:
        text: The task as a user writes it, `name` or `name:limit`.
        context: The model to evaluate. If the task compares with full precision, run it on the reference first.

    Raises:
        ContractError: The task breaks a promise; the message says which.
    """
    spec = tasks.parse(text)
    task = tasks.resolve(spec)
    try:
        demand_described(task, "name", "description")
        demand(task.name == spec.name, f"is called {spec.name}, not {task.name}")
        demand(task.metrics in METRICS, f"its kind of figures has a version; expected one of {sorted(METRICS)}")
        try:
            sha256 = task.data_sha256(context.data_dir, context.progress)
        except DataError as error:
            return Outcome(str(error))
        demand(sha256 == task.data_sha256(context.data_dir, context.progress), "its data has one hash")
        first, again = task.run(context, spec), task.run(context, spec)
        _check_result(first, str(spec))
        demand(
            {m.name: m.value for m in first.metrics} == {m.name: m.value for m in again.metrics},
            "gives the same figures when it is run again",
        )
        demand(first.items == again.items, "gives the same items when it is run again")
    except ContractError as error:
        raise ContractError(f"{text}: {error}") from None
    return Outcome(None, first.remarks)


def _check_result(result: TaskResult, name: str) -> None:
    demand(len(result.metrics) > 0, "gives a figure")
    demand(len(result.data) > 0, "names its data")
    for metric in result.metrics:
        _check_metric(metric, name)
    demand(all(item.task == name for item in result.items), f"its items are those of {name}")
    demand(len({item.item for item in result.items}) == len(result.items), "names each item once")


def _check_metric(metric: Metric, name: str) -> None:
    demand(metric.task == name, f"{metric.name} is a figure of {name}, not of {metric.task}")
    demand(math.isfinite(metric.value), f"{metric.name} is finite, not {metric.value}")
    demand(metric.n is None or metric.n > 0, f"{metric.name} is of at least one item")
    demand(metric.stderr is None or metric.stderr >= 0, f"the error of {metric.name} is not negative")
