"""Reads a plan's file: its fields, and the line of each, for error messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from slmquant.boundary import guarded
from slmquant.errors import PlanError

Location = tuple[str | int, ...]
"""Where a value is in a plan: names of fields and positions in lists, outermost first."""

_LARGEST_FILE, _DEEPEST, _MOST_ALIASES = 1 << 18, 16, 100


@dataclass(frozen=True)
class PlanFile:
    """The content of a plan's file; `make_plan` checks it.

    Attributes:
        path: The file.
        fields: Its fields.
        lines: Location of a value → its line, from 1.
    """

    path: Path
    fields: dict[str, object]
    lines: Mapping[Location, int]

    def place(self, location: Location) -> str:
        """`FILE:LINE` of a value, or of the closest value around it; `FILE` for a value that the file lacks."""
        for length in range(len(location), 0, -1):
            if (line := self.lines.get(location[:length])) is not None:
                return f"{self.path}:{line}"
        return str(self.path)

    def without(self, fields: Collection[str]) -> PlanFile:
        """The same file, without the lines of fields whose values come from elsewhere."""
        return replace(self, lines={place: line for place, line in self.lines.items() if place[0] not in fields})


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan from a YAML (or JSON) file.

    Raises:
        PlanError: The file is missing, not YAML, too large, nested too deeply, names a field twice, or holds no fields.
    """
    with guarded(lambda why: f"cannot read plan {path}: {why}", PlanError):
        size = path.stat().st_size
        content_bytes = path.read_bytes() if size <= _LARGEST_FILE else b""
    if size > _LARGEST_FILE:
        raise PlanError(f"plan {path} is too large: {size} bytes; expected at most {_LARGEST_FILE}")
    with guarded(lambda why: f"plan {path} is not UTF-8 text: {why}", PlanError):
        text = content_bytes.decode("utf-8")
    with guarded(lambda why: f"plan {path} is not YAML: {why}", PlanError, _what_and_where):
        _check_simple(path, text)
        lines = {} if (root := yaml.compose(text, yaml.SafeLoader)) is None else dict(_lines(path, root, (), set()))
        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise PlanError(f"plan {path} holds a {type(content).__name__}; expected fields such as models, methods, tasks")
    return PlanFile(path, {str(name): value for name, value in content.items()}, lines)


def _check_simple(path: Path, text: str) -> None:
    """Refuse deep nesting and many aliases, which no plan needs and which could expand without bound."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > _DEEPEST or aliases > _MOST_ALIASES:
            raise PlanError(
                f"plan {path} is nested deeper than {_DEEPEST} levels or repeats "
                f"parts more than {_MOST_ALIASES} times; write it out"
            )


def _what_and_where(error: BaseException) -> str:
    """What is wrong with a YAML text, and its line."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _lines(path: Path, node: yaml.Node, location: Location, seen: set[int]) -> Iterator[tuple[Location, int]]:
    """The line of every value below `node`; of a field, the line of its name. Repeated parts are listed once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*location, index), child.start_mark.line + 1
            yield from _lines(path, child, (*location, index), seen)
    elif isinstance(node, yaml.MappingNode):
        known: dict[str, int] = {}
        for name, child in node.value:
            line, field = name.start_mark.line + 1, str(name.value)
            if field in known:
                raise PlanError(f"{path}:{line}: field {field!r} is already given in line {known[field]}; delete one")
            known[field] = line
            yield (*location, field), line
            yield from _lines(path, child, (*location, field), seen)
