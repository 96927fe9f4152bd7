"""What a model is asked: texts it must predict, and lm-eval's zero-shot tasks.

A file without an underscore is a text task and its name; every other name is looked up in lm-eval.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant import plugins
from slmquant.errors import SlmquantError, UnknownNameError
from slmquant.store.record import TaskSpec

if TYPE_CHECKING:
    from slmquant.tasks._base import EvalContext, Task
    from slmquant.tasks._text import TextTask

__all__ = ["TaskNameError", "has_reference", "known", "parse", "reference_path", "resolve", "text_tasks"]


class TaskNameError(SlmquantError):
    """A task that cannot be read."""

    exit_code = 2


def parse(text: str) -> TaskSpec:
    """Read `name` or `name:limit`, with `@seed` behind it for a random order of the items.

    `~confidence` behind the seed stops as soon as the cells are told apart; see `runs.adaptive`.

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
    """Name → description: text tasks first, then zero-shot tasks. lm-eval has many more, from the hub."""
    from slmquant.tasks._lm_eval_catalogue import KNOWN_TASKS

    texts = {task.name: task.description for task in text_tasks()}
    return texts | {name: task.description for name, task in KNOWN_TASKS.items()}


def text_tasks() -> list[TextTask]:
    """The text tasks, by name."""
    return [_text_task(name) for name in _texts()]


def resolve(spec: TaskSpec) -> Task:
    """The task that `spec` names.

    Raises:
        UnknownNameError: Neither slmquant nor lm-eval has it.
    """
    if spec.name in _texts():
        return _text_task(spec.name)
    from slmquant.tasks._lm_eval import find
    from slmquant.tasks._lm_eval_catalogue import KNOWN_TASKS

    found = find(spec.name)
    if found is None:
        raise UnknownNameError("task", spec.name, [*_texts(), *KNOWN_TASKS])
    return found


def reference_path(context: EvalContext, spec: TaskSpec) -> Path | None:
    """Where the full-precision states that `spec` compares with are kept; None if it compares with none."""
    from slmquant.tasks._text import TextTask

    task = resolve(spec)
    return task.reference_path(context, spec) if isinstance(task, TextTask) else None


def has_reference(context: EvalContext, spec: TaskSpec) -> bool:
    """Whether everything is there that a quantized model's `spec` compares with."""
    path = reference_path(context, spec)
    return path is None or path.exists()


def _text_task(name: str) -> TextTask:
    task: TextTask = plugins.load(sys.modules[__name__], name, "task").TASK
    return task


def _texts() -> list[str]:
    return plugins.names(sys.modules[__name__])
