"""Tasks that models are evaluated on: texts to predict, prompts to continue, and lm-eval's tasks.

Each file here without an underscore is one of slmquant's own tasks, of that name; other names are looked up in lm-eval.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant import discovery
from slmquant.cache.entries import is_sound
from slmquant.errors import TaskNameError, UnknownNameError
from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.tasks.common.contract import ReferenceKey, Task

__all__ = ["has_items", "has_reference", "known", "own_tasks", "parse", "reference_path", "resolve"]


def parse(text: str) -> TaskSpec:
    """Read `name` or `name:limit`, followed by `@seed` for a random order of the items.

    `~confidence` after the seed stops as soon as the cells are told apart; see `runs.early_stopping.loop`.

    Raises:
        TaskNameError: The limit or the seed is not a whole number, or the confidence is not between 0.5 and 1.
    """
    before, at, order = text.partition("@")
    name, colon, limit = before.partition(":")
    seed, tilde, confidence = order.partition("~")
    if colon and (not limit.isdecimal() or int(limit) == 0):
        raise TaskNameError(
            f"cannot read task {text!r}: the limit {limit!r} is not a positive whole number; write 'piqa:100'"
        )
    if at and not seed.isdecimal():
        raise TaskNameError(f"cannot read task {text!r}: the seed {seed!r} is not a whole number; write 'piqa:100@0'")
    if tilde and not _is_confidence(confidence):
        raise TaskNameError(
            f"cannot read task {text!r}: the confidence {confidence!r} is not between 0.5 and 1; "
            "write 'piqa:100@0~0.95'"
        )
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
    """Name → description: slmquant's own tasks, then the catalogued tasks of lm-eval, which has many more."""
    from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS

    own = {task.name: task.description for task in own_tasks()}
    return own | {name: task.description for name, task in KNOWN_TASKS.items()}


def own_tasks() -> list[Task]:
    """The tasks of slmquant itself, by name."""
    return [_own_task(name) for name in _own()]


def resolve(spec: TaskSpec) -> Task:
    """The task that `spec` names.

    Raises:
        UnknownNameError: Neither slmquant nor lm-eval has the task.
        TaskNameError: A random order is requested of a task without items.
    """
    if spec.name in _own():
        if spec.order_seed is not None:
            raise TaskNameError(
                f"task {spec.name!r} has no random order, as it consists of a text or of prompts, not of items; "
                f"write {str(spec).partition('@')[0]!r}"
            )
        return _own_task(spec.name)
    from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS
    from slmquant.tasks.common.lm_eval.task import find

    task = find(spec.name)
    if task is None:
        raise UnknownNameError("task", spec.name, [*_own(), *KNOWN_TASKS])
    return task


def has_items(spec: TaskSpec) -> bool:
    """Whether a task has items that can be evaluated one by one; slmquant's own tasks have none."""
    return spec.name not in _own()


def reference_path(key: ReferenceKey, spec: TaskSpec) -> Path | None:
    """Cache entry of the full-precision reference for `spec`; None if the task needs none."""
    from slmquant.tasks.common.contract import ComparingTask

    task = resolve(spec)
    return task.reference_path(key, spec) if isinstance(task, ComparingTask) else None


def has_reference(key: ReferenceKey, spec: TaskSpec) -> bool:
    """Whether the full-precision reference for `spec` is cached undamaged, or none is needed."""
    entry = reference_path(key, spec)
    return entry is None or is_sound(entry)


def _own_task(name: str) -> Task:
    task: Task = discovery.load(sys.modules[__name__], name, "task").TASK
    return task


def _own() -> list[str]:
    return discovery.names(sys.modules[__name__])
