"""Words for what is wrong in a plan: file, line, field, value, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from slmquant.errors import PlanError, UnknownNameError
from slmquant.runs.plan_fields import Extra, Pattern
from slmquant.runs.plan_file import Location, PlanFile
from slmquant.store.record import CalibrationSpec, TaskSpec

_PARTS: Mapping[str, type[BaseModel]] = {
    "calibration": CalibrationSpec,
    "exclude": Pattern,
    "include": Extra,
    "tasks": TaskSpec,
}
"""Field of a plan of cells → the type of its value, or of the items of its list."""
_MOST_TOLD = 20
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 2, 70, 70, 40


def short(value: object) -> str:
    """The beginning of a value's representation; the rest is never computed."""
    return _BRIEF.repr(value)[:80]


def plan_error(
    error: ValidationError,
    plan: type[BaseModel],
    file: PlanFile | None,
    parts: Mapping[str, type[BaseModel]] = _PARTS,
) -> PlanError:
    """One error that tells everything that is wrong with a plan, one line each.

    Args:
        error: pydantic's findings.
        plan: The type of the plan.
        file: The plan's file; None if its fields come from elsewhere.
        parts: Field → the type of its value, or of the items of its list or table.
    """
    every = error.errors()
    inner = {one["loc"][:length] for one in every for length in range(len(one["loc"]))}
    found = [one for one in every if not (one["type"] == "too_short" and one["loc"] in inner)]  # its items are wrong
    lines = [_line(one, plan, file, parts) for one in found[:_MOST_TOLD]]
    if len(found) > _MOST_TOLD:
        lines.append(f"and {len(found) - _MOST_TOLD} more")
    codes = {int(one.get("ctx", {}).get("exit_code", PlanError.exit_code)) for one in found}
    return PlanError(*lines, exit_code=codes.pop() if len(codes) == 1 else PlanError.exit_code)


def named(location: Location) -> str:
    """A location as users write it: `include[0].method`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def at(location: Location, file: PlanFile | None) -> str:
    """The beginning of a message about a value: its place and its field."""
    place = "plan" if file is None else f"{file.place(location)}:"
    return f"{place} field {named(location)!r}" if location else place


def _line(
    error: ErrorDetails, plan: type[BaseModel], file: PlanFile | None, parts: Mapping[str, type[BaseModel]]
) -> str:
    context = error.get("ctx", {})
    field = context.get("field")
    location = (*error["loc"], *([field] if field else []))
    value = error["input"]
    if field:
        value = value.get(field) if isinstance(value, dict) else getattr(value, field, value)
    reason = _reason(error, plan, parts)
    shown = short(value)
    got = "" if error["type"] in ("missing", "extra_forbidden") or shown in reason else f" (got {shown})"
    return f"{at(location, file)}: {reason}{got}"


def _reason(error: ErrorDetails, plan: type[BaseModel], parts: Mapping[str, type[BaseModel]]) -> str:
    kind, location = error["type"], error["loc"]
    if kind == "extra_forbidden":
        owners = (parts[str(part)] for part in reversed(location[:-1]) if part in parts)
        return str(UnknownNameError("field", str(location[-1]), next(owners, plan).model_fields))
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        near = difflib.get_close_matches(str(error["input"]), options, n=1, cutoff=0.5)
        return error["msg"].replace("Input should be", "expected") + (f"; did you mean {near[0]!r}?" if near else "")
    if kind == "tuple_type":
        return "write a list, e.g. [name]"
    if kind == "missing":
        return "is missing; every plan has it"
    return error["msg"].replace("Input should be", "expected")
