"""Suites: named sets of tasks, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmquant.calib.corpora import whereabouts
from slmquant.errors import UnknownNameError
from slmquant.store.record import TaskSpec
from slmquant.tasks import own_tasks
from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS
from slmquant.tasks.common.lm_eval.rows import whereabouts as rows_whereabouts
from slmquant.tasks.common.text import TextTask

__all__ = ["SUITES", "Suite", "suite"]

_TEXT = "text"
"""Placeholder for `wikitext2` if it is in the local folder or on the hub, else for `exl_wiki` from a package."""


@dataclass(frozen=True)
class Suite:
    """A set of tasks.

    Attributes:
        description: A line about its purpose.
        tasks: (task, limit); `text` stands for the best available text.
        as_far_as_here: Whether tasks whose data is not available are left out, and named in the remark; otherwise
            they are run, and the cell fails with what is missing.
    """

    description: str
    tasks: tuple[tuple[str, int | None], ...]
    as_far_as_here: bool = False


SUITES: Mapping[str, Suite] = {
    "demo": Suite(
        "a first look: perplexity, divergence and two zero-shot tasks",
        ((_TEXT, 4), ("arc_easy", 60), ("piqa", 60)),
    ),
    "quick": Suite(  # about 160,000 tokens through the model's body, and 96 steps of generating a dozen texts at once
        "a longer look, minutes: perplexity, divergence, five zero-shot tasks, what it writes",
        (
            (_TEXT, 14),
            ("arc_easy", 400),
            ("piqa", 400),
            ("hellaswag", 200),
            ("winogrande", 400),
            ("lambada_openai", 300),
            ("generation", None),
        ),
    ),
    "paper": Suite(
        "the six data sets of the SLMQuant paper, whole",
        tuple((name, None) for name in ("mmlu", "arc_easy", "arc_challenge", "piqa", "hellaswag", "wikitext2")),
    ),
    "full": Suite(
        "every task known by heart that can be had here, whole",
        tuple((name, None) for name in ("wikitext2", "c4", *KNOWN_TASKS, "generation")),
        as_far_as_here=True,
    ),
}
"""Name → suite."""


@dataclass(frozen=True)
class ChosenSuite:
    """The tasks of a suite on this machine, and what was chosen and why, where there was a choice."""

    tasks: tuple[TaskSpec, ...]
    remark: str | None


def suite(name: str, data_dir: Path | None = None) -> ChosenSuite:
    """The tasks of a suite, with its text decided by what can be had here.

    Args:
        name: One of `SUITES`.
        data_dir: The local folder of data, or None for `SLMQUANT_DATA`.

    Raises:
        UnknownNameError: There is no such suite.
    """
    if name not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    chosen = SUITES[name]
    tasks, remarks = [], []
    for task, limit in chosen.tasks:
        if task == _TEXT:
            task, remark = _text(data_dir)
            remarks.append(remark)
        tasks.append(TaskSpec(name=task, limit=limit))
    if chosen.as_far_as_here:
        absent = [task.name for task in tasks if _is_absent(task.name, data_dir)]
        tasks = [task for task in tasks if task.name not in absent]
        if absent:
            remarks.append(f"left out, as their data is in no local folder or package: {', '.join(absent)}")
    return ChosenSuite(tuple(tasks), "; ".join(remarks) or None)


def _text(data_dir: Path | None) -> tuple[str, str]:
    """The best available text, and a remark about the choice."""
    source = whereabouts("wikitext2_test", data_dir)
    if source == "absent":
        return (
            "exl_wiki",
            "text: exl_wiki, from a package, as WikiText-2 is in no local folder and the hub does not answer",
        )
    return "wikitext2", f"text: wikitext2, from the {source}"


def _is_absent(name: str, data_dir: Path | None) -> bool:
    if name in KNOWN_TASKS:
        return rows_whereabouts(KNOWN_TASKS[name], data_dir) == "absent"
    corpora = [task.corpus for task in own_tasks() if isinstance(task, TextTask) and task.name == name]
    return any(whereabouts(corpus, data_dir) == "absent" for corpus in corpora)
