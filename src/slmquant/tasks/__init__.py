"""What a model is asked: texts it must predict, prompts it must continue, and lm-eval's tasks.

A file without an underscore is a task of our own and its name; every other name is looked up in lm-eval.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant import plugins
from slmquant.errors import SlmquantError, UnknownNameError
from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.tasks.common.contract import EvalContext, Task

__all__ = ["TaskNameError", "has_items", "has_reference", "known", "own_tasks", "parse", "reference_path", "resolve"]


class TaskNameError(SlmquantError):
    """A task that cannot be read."""

    exit_code = 2


def parse(text: str) -> TaskSpec:
    """Read `name` or `name:limit`, with `@seed` behind it for a random order of the items.

    `~confidence` behind the seed stops as soon as the cells are told apart; see `runs.early_stopping.loop`.

    Raises:
        TaskNameError: The limit or the seed is no such whole number, or the confidence is not between 0.5 and 1.
    """
    before, at, order = text.partition("@")
    name, colon, limit = before.partition(":")
    seed, tilde, confidence = order.partition("~")
    if colon and (not limit.isdecimal() or int(limit) == 0):
        raise TaskNameError(f"cannot read task {text!r}: {limit!r} is no positive whole number; write 'piqa:100'")
    if at and not seed.isdecimal():
        raise TaskNameError(f"cannot read task {text!r}: {seed!r} is no seed; write 'piqa:100@0'")
    if tilde and not _is_confidence(confidence):
        raise TaskNameError(f"cannot read task {text!r}: {confidence!r} is no confidence; write 'piqa:100@0~0.95'")
    return TaskSpec(
        name=name,
        limit=int(limit) if colon else None,
        order_seed=int(seed) if at else None,
        until_separated=float(confidence) if tilde else None,
    )


def _is_confidence(text: str) -> bool:
    try:
        return 0.5 < float(text) < 1
    except ValueError:
        return False


def known() -> dict[str, str]:
    """Name → description: our own tasks first, then those of lm-eval known by heart. lm-eval has many more."""
    from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS

    own = {task.name: task.description for task in own_tasks()}
    return own | {name: task.description for name, task in KNOWN_TASKS.items()}


def own_tasks() -> list[Task]:
    """The tasks of our own, by name."""
    return [_own_task(name) for name in _own()]


def resolve(spec: TaskSpec) -> Task:
    """The task that `spec` names.

    Raises:
        UnknownNameError: Neither slmquant nor lm-eval has it.
        TaskNameError: A random order is asked of a task that has no items.
    """
    if spec.name in _own():
        if spec.order_seed is not None:
            raise TaskNameError(
                f"task {spec.name!r} has no items to ask in a random order, but a text from its start, or prompts; "
                f"write {str(spec).partition('@')[0]!r}"
            )
        return _own_task(spec.name)
    from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS
    from slmquant.tasks.common.lm_eval.task import find

    found = find(spec.name)
    if found is None:
        raise UnknownNameError("task", spec.name, [*_own(), *KNOWN_TASKS])
    return found


def has_items(spec: TaskSpec) -> bool:
    """Whether a task has items that can be asked one by one; a task of our own has none."""
    return spec.name not in _own()


def reference_path(context: EvalContext, spec: TaskSpec) -> Path | None:
    """Where that of the full-precision model is kept which `spec` compares with; None if it compares with nothing."""
    from slmquant.tasks.common.contract import ComparingTask

    task = resolve(spec)
    return task.reference_path(context, spec) if isinstance(task, ComparingTask) else None


def has_reference(context: EvalContext, spec: TaskSpec) -> bool:
    """Whether everything is there that a quantized model's `spec` compares with."""
    path = reference_path(context, spec)
    return path is None or path.exists()


def _own_task(name: str) -> Task:
    task: Task = plugins.load(sys.modules[__name__], name, "task").TASK
    return task


def _own() -> list[str]:
    return plugins.names(sys.modules[__name__])
