"""Checks that a plan's models differ in one thing each, and that nothing is judged on what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError

from slmquant import tasks
from slmquant.errors import PlanError, UnknownNameError
from slmquant.lab.arms import matching_intermediate, parameters
from slmquant.lab.factors import COMPENSATING, FACTORS
from slmquant.lab.plan import Factor, LabPlan, changed
from slmquant.lab.settings import Settings
from slmquant.runs.plan_errors import at, plan_error, short
from slmquant.runs.plan_file import Location, PlanFile
from slmquant.store.record import CalibrationSpec, TaskSpec
from slmquant.tasks.common.text import TextTask

MATCHED = 0.02
"""Largest difference of parameters that counts as equal, as a share."""
_PARTS: Mapping[str, type[BaseModel]] = {
    "base": Settings,
    "calibration": CalibrationSpec,
    "factors": Factor,
    "tasks": TaskSpec,
}


def make_lab_plan(fields: Mapping[str, object], file: PlanFile | None = None) -> LabPlan:
    """Make a plan from its fields.

    Args:
        fields: The fields.
        file: The file that they come from, whose lines errors name; None if they come from elsewhere.

    Raises:
        PlanError: Fields are missing, unknown or wrong, a level is not matched, or text is judged on that is also
            trained or calibrated on; the message tells each.
    """
    try:
        plan = LabPlan.model_validate(fields, context=None if file is None else file.path.parent)
    except ValidationError as error:
        raise plan_error(error, LabPlan, file, _PARTS) from error
    if found := [f"{at(location, file)}: {problem}" for location, problem in _problems(plan)]:
        raise PlanError(*found)
    return plan


def _problems(plan: LabPlan) -> Iterator[tuple[Location, str]]:
    """Places in the plan, and what is wrong there."""
    for name, factor in plan.factors.items():
        for level, changes in factor.levels.items():
            if problem := _of_level(plan.base, name, factor, changes):
                yield ("factors", name, "levels", level), problem
    for index, spec in enumerate(plan.tasks):
        if problem := _of_task(plan, spec):
            yield ("tasks", index), problem


def _of_level(base: Settings, name: str, factor: Factor, changes: Mapping[str, object]) -> str | None:
    """Why a level is not one: it is unknown, changes more than its factor or nothing of it, or is not matched."""
    allowed = FACTORS[name].allowed
    for setting in changes:
        if setting not in Settings.model_fields:
            return str(UnknownNameError("setting", setting, allowed))
        if setting not in allowed:
            return (
                f"it also changes {setting!r}, which its effect could come from; a level of {name!r} may change "
                f"{', '.join(sorted(allowed))}"
            )
    try:
        settings = changed(base, changes)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, first["loc"])) or str(first.get("ctx", {}).get("field", ""))
        value = changes.get(setting, getattr(base, setting, None))
        return f"{setting} is {short(value)}: {first['msg']}"
    if all(getattr(settings, setting) == getattr(base, setting) for setting in FACTORS[name].settings):
        return "it is the same as the base; change a setting of the factor"
    if COMPENSATING in changes:
        alone = changed(base, {setting: value for setting, value in changes.items() if setting != COMPENSATING})
        if factor.parameters == "vary" or _unmatched(base, alone) is None:
            return f"it need not change {COMPENSATING!r}, which its effect could come from; leave that out"
    return _unmatched(base, settings) if factor.parameters == "equal" else None


def _unmatched(base: Settings, settings: Settings) -> str | None:
    """Why a level is not matched in parameters, and what would match it."""
    wanted, found = parameters(base), parameters(settings)
    if abs(found / wanted - 1) <= MATCHED:
        return None
    width = matching_intermediate(base, settings)
    remedy = f"add {COMPENSATING}: {width}, or" if width else "change its sizes, or"
    return (
        f"it is not matched: {found:,} parameters, {found / wanted - 1:+.1%} against the base's {wanted:,}, where at "
        f"most {MATCHED:.0%} count as equal; {remedy} write 'parameters: vary' beside its levels"
    )


def _of_task(plan: LabPlan, spec: TaskSpec) -> str | None:
    """Why a plan cannot judge on a task."""
    task = tasks.resolve(spec)
    if not isinstance(task, TextTask):
        return f"{spec.name} has no text to predict; name texts such as c4:32"
    if task.corpus in plan.train:
        return f"{spec.name} judges on {task.corpus}, which 'train' names; train on another corpus"
    if task.corpus == plan.calibration.corpus:
        return f"{spec.name} judges on {task.corpus}, which 'calibration' names; calibrate on another corpus"
    if "vocabulary" in plan.factors and spec.limit is not None:
        return (
            "tokenizers cut windows differently, so factor 'vocabulary' needs whole texts; "
            f"write {spec.name} without a limit"
        )
    return None
