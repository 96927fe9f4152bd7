"""Finds lm-eval's definition files by task name, and the tasks of groups and tags."""

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
"""Stands for all configurations of a data set."""
_TASK = re.compile(r"""^["']?task["']?\s*:\s*["']?([\w.\-]+)["']?\s*$""", re.MULTILINE)
_GROUP = re.compile(r"""^["']?group["']?\s*:\s*["']?([\w.\-]+)["']?\s*$""", re.MULTILINE)
_TAGS = re.compile(r"""^["']?tag["']?\s*:[ \t]*(\S*)[ \t]*\n((?:[ \t]*-[ \t]+\S+[ \t]*\n)*)""", re.MULTILINE)
_INCLUDE = re.compile(r"""^include\s*:\s*["']?(\S+?)["']?\s*$""", re.MULTILINE)


def definitions(known: KnownTask) -> list[Path]:
    """Definition files of a catalogued task, sorted by name."""
    return sorted(_root().glob(known.yaml))


def task_file(name: str) -> Path | None:
    """The definition file of the task `name`; None if there is no such task."""
    return _index().tasks.get(name)


def group(name: str) -> list[Path] | None:
    """The definition files of the tasks in a group of lm-eval; None if there is no such group.

    Raises:
        RefusedError: The name stands for several tasks without a common figure; the message lists them.
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
    raise RefusedError(f"{name!r} stands for {len(members)} tasks without a common figure; name one of: {listed}")


def equally_weighted(name: str) -> frozenset[str]:
    """The metrics of a group of lm-eval that are unweighted means of its tasks' figures."""
    listed = _read(_index().groups[name]).get("aggregate_metric_list") or []
    metrics = [listed] if isinstance(listed, dict) else listed
    return frozenset(metric["metric"] for metric in metrics if not metric.get("weight_by_size", True))


def known_task(path: Path) -> KnownTask | None:
    """The catalogued task that a definition file belongs to (`mmlu_anatomy` belongs to `mmlu`), or None."""
    return _known_files().get(path)


def known_source(config: Mapping[str, Any]) -> KnownTask | None:
    """The catalogued task with the rows that a definition reads, or None.

    For example, `gsm8k_cot` reads the rows of `gsm8k`, and `mmlu_anatomy` those of `mmlu`.
    """
    path = str(config.get("dataset_path"))
    return _sources().get((path, _ANY)) or _sources().get((path, config.get("dataset_name")))


@dataclass(frozen=True)
class _Index:
    """Names of tasks and groups → definition files; tags → their tasks."""

    tasks: dict[str, Path]
    groups: dict[str, Path]
    tags: dict[str, list[str]]


def _root() -> Path:
    from lm_eval import tasks

    return Path(tasks.__file__).parent


@functools.cache
def _index() -> _Index:
    """All names that lm-eval defines, found by regular expressions.

    lm-eval's own index parses some 14,000 files, which takes 20 seconds; a name always has its own line.
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
    """The tags of a definition: its own, else those of the file that it includes."""
    if tagged := _TAGS.search(text):
        listed = [tagged[1], *(line.split()[-1] for line in tagged[2].splitlines())]
        return [tag.strip("\"'") for tag in listed if tag]
    if included := _INCLUDE.search(text):
        template = path.parent / included[1]
        return _tags(template, template.read_text(encoding="utf-8")) if template.is_file() else []
    return []


def _members(name: str) -> Iterator[str]:
    """The tasks of a group, including those of its subgroups."""
    index = _index()
    for member in _read(index.groups[name]).get("task", []):
        if not isinstance(member, str):
            raise RefusedError(
                f"group {name!r} changes the definitions of its tasks, which is not supported; name single tasks"
            )
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
    """(data set, its configuration) → the catalogued task; a family has all configurations."""
    sources: dict[tuple[str, str | None], KnownTask] = {}
    for known in KNOWN_TASKS.values():
        config = _read(definitions(known)[0])
        sources.setdefault((config["dataset_path"], _ANY if known.is_family else config.get("dataset_name")), known)
    return sources
