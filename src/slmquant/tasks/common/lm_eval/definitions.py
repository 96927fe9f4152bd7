"""Names of tasks and lm-eval's definition files: which file defines a task, which tasks a name stands for."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmquant.errors import RefusedError
from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS, KnownTask

__all__ = ["definitions", "equally_weighted", "group", "known_source", "known_task", "task_file"]

_ANY = "*"
"""Every configuration of a dataset."""
_TASK = re.compile(r"""^["']?task["']?\s*:\s*["']?([\w.\-]+)["']?\s*$""", re.MULTILINE)
_GROUP = re.compile(r"""^["']?group["']?\s*:\s*["']?([\w.\-]+)["']?\s*$""", re.MULTILINE)
_TAGS = re.compile(r"""^["']?tag["']?\s*:[ \t]*(\S*)[ \t]*\n((?:[ \t]*-[ \t]+\S+[ \t]*\n)*)""", re.MULTILINE)
_INCLUDE = re.compile(r"""^include\s*:\s*["']?(\S+?)["']?\s*$""", re.MULTILINE)


def definitions(known: KnownTask) -> list[Path]:
    """lm-eval's definition files of a task, in the order of their names."""
    return sorted(_root().glob(known.yaml))


def task_file(name: str) -> Path | None:
    """The definition file of the task `name`; None if there is no such task."""
    return _index().tasks.get(name)


def group(name: str) -> list[Path] | None:
    """The definition files of the tasks that a group of lm-eval consists of; None if there is no such group.

    Raises:
        RefusedError: It is a name for several tasks that have no common figure; the message lists them.
    """
    index = _index()
    if name in index.groups:
        members = list(_members(name))
        if "aggregate_metric_list" in _read(index.groups[name]):
            return [index.tasks[member] for member in members]
    elif name in index.tags:
        members = index.tags[name]
    else:
        return None
    listed = ", ".join(members[:12]) + (", ..." if len(members) > 12 else "")
    raise RefusedError(f"{name!r} stands for {len(members)} tasks that have no common figure; name those: {listed}")


def equally_weighted(name: str) -> frozenset[str]:
    """The metrics of a group of lm-eval that are means of its tasks' figures, however many items each has."""
    listed = _read(_index().groups[name]).get("aggregate_metric_list") or []
    metrics = [listed] if isinstance(listed, dict) else listed
    return frozenset(metric["metric"] for metric in metrics if not metric.get("weight_by_size", True))


def known_task(path: Path) -> KnownTask | None:
    """The known task that a definition file belongs to: that of `mmlu_anatomy` to `mmlu`. None where none has it."""
    return _known_files().get(path)


def known_source(config: Mapping[str, Any]) -> KnownTask | None:
    """The known task whose rows a definition reads, too: `gsm8k_cot` those of `gsm8k`, `mmlu_anatomy` those of `mmlu`.

    None where no known task has them.
    """
    path = str(config.get("dataset_path"))
    return _sources().get((path, _ANY)) or _sources().get((path, config.get("dataset_name")))


@dataclass(frozen=True)
class _Index:
    """Name → definition file; tag → the tasks that bear it."""

    tasks: dict[str, Path]
    groups: dict[str, Path]
    tags: dict[str, list[str]]


def _root() -> Path:
    from lm_eval import tasks

    return Path(tasks.__file__).parent


@functools.cache
def _index() -> _Index:
    """Every name that lm-eval defines.

    lm-eval's own index parses some 14,000 files, which takes 20 seconds; a name stands on a line of its own.
    """
    index = _Index({}, {}, {})
    for path in sorted(_root().rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if found := _GROUP.search(text):
            index.groups.setdefault(found[1], path)
        elif found := _TASK.search(text):
            index.tasks.setdefault(found[1], path)
            for tag in _tags(path, text):
                index.tags.setdefault(tag, []).append(found[1])
    return index


def _tags(path: Path, text: str) -> list[str]:
    """The tags of a definition: its own, or else those of the file that it includes."""
    if tagged := _TAGS.search(text):
        listed = [tagged[1], *(line.split()[-1] for line in tagged[2].splitlines())]
        return [tag.strip("\"'") for tag in listed if tag]
    if included := _INCLUDE.search(text):
        template = path.parent / included[1]
        return _tags(template, template.read_text(encoding="utf-8")) if template.is_file() else []
    return []


def _members(name: str) -> Iterator[str]:
    """The tasks of a group, those of its subgroups included."""
    index = _index()
    for member in _read(index.groups[name]).get("task", []):
        if not isinstance(member, str):
            raise RefusedError(f"group {name!r} changes the definitions of its tasks; name one of lm-eval's tasks")
        if member in index.groups:
            yield from _members(member)
        elif member in index.tasks:
            yield member
        else:
            yield from index.tags.get(member, [])


def _read(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(path, resolve_func=False)
    return config


@functools.cache
def _known_files() -> dict[Path, KnownTask]:
    return {path: known for known in KNOWN_TASKS.values() for path in definitions(known)}


@functools.cache
def _sources() -> dict[tuple[str, str | None], KnownTask]:
    """(dataset, its configuration) → the known task; a family has every configuration."""
    found: dict[tuple[str, str | None], KnownTask] = {}
    for known in KNOWN_TASKS.values():
        config = _read(definitions(known)[0])
        found.setdefault((config["dataset_path"], _ANY if known.is_family else config.get("dataset_name")), known)
    return found
