"""Makes a plan from a file and the command's options together, with defaults for what neither says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from slmquant import methods
from slmquant.calib.corpora import calibration_corpus
from slmquant.errors import PlanError, UnknownNameError
from slmquant.model.sources.resolve import check_source
from slmquant.runs import defaults
from slmquant.runs.plan import Plan, make_plan
from slmquant.runs.plan_errors import at
from slmquant.runs.plan_fields import is_mixture_file, scheme_name
from slmquant.runs.plan_file import read_plan_file
from slmquant.store.record import task_name
from slmquant.tasks.common.suites import suite as choose_suite


def plan_of(
    path: Path | None,
    fields: Mapping[str, object],
    calibration: Mapping[str, object],
    suite: str | None,
    data_dir: Path | None,
) -> tuple[Plan, list[str]]:
    """A plan, and remarks on what was chosen for the user.

    Args:
        path: File of the plan; None if there is none.
        fields: Fields that replace the file's; None or an empty list leaves the file's field.
        calibration: Fields of the calibration set, in the same way.
        suite: Name of a suite of tasks, added to the tasks of the fields.
        data_dir: Local folder of data, tried first.

    Raises:
        PlanError: The file cannot be read, or fields are missing, unknown or wrong, or name what does not exist.
        UnknownNameError: A suite is not known.
    """
    file = None if path is None else read_plan_file(path)
    given = {name: value for name, value in fields.items() if value is not None and value != []}
    if isinstance(schemes := given.get("schemes"), list):  # a plan's own paths begin in its folder
        given["schemes"] = [str(Path(name).absolute()) if is_mixture_file(name) else name for name in schemes]
    content = _replaced({} if file is None else file.fields, given, calibration)
    remarks: list[str] = []
    named = content.get("tasks")
    if named is None or suite is not None:
        chosen = choose_suite(suite or defaults.SUITE, data_dir)
        beside = named if isinstance(named, list) else []
        names = {_task_name(task) for task in beside}  # these keep the user's limit
        content["tasks"] = [*(task for task in chosen.tasks if task.name not in names), *beside]
        remarks += [chosen.remark] if chosen.remark else []
    _set_matrix(content)
    window = content.get("calibration") or {}
    if isinstance(window, dict) and "corpus" not in window:  # anything else is refused with the plan
        window = {**window, "corpus": calibration_corpus(data_dir)}
        remarks.append(f"calibrating on {window['corpus']}")
    moved = {*given, *(["tasks"] if suite is not None else [])}
    source = None if file is None else file.without(moved)
    plan = make_plan(content | {"calibration": window}, source)
    for index, model in enumerate(plan.models):
        try:
            check_source(model)
        except UnknownNameError as error:
            raise PlanError(f"{at(('models', index), source)}: {error}") from error
    return plan, [*remarks, *_mixtures(content, Path() if path is None else path.parent)]


def _mixtures(content: Mapping[str, object], folder: Path) -> Iterator[str]:
    """A remark for each mixture file of a plan that was checked, with the name that its cells have."""
    schemes, extras = (content.get(field) or () for field in ("schemes", "include"))
    assert isinstance(schemes, Iterable) and isinstance(extras, Iterable)  # noqa: S101  # the plan was checked
    for name in dict.fromkeys((*schemes, *(extra["scheme"] for extra in extras))):
        if is_mixture_file(name):
            yield f"{scheme_name(name, folder)} is {name}"


def _replaced(
    fields: Mapping[str, object], given: Mapping[str, object], calibration: Mapping[str, object]
) -> dict[str, object]:
    """The fields of a file, replaced by those of options; a single seed or budget also replaces several."""
    content = {**fields, **given}
    window = content.get("calibration") or {}
    if isinstance(window, dict):
        content["calibration"] = window | {name: value for name, value in calibration.items() if value is not None}
    for one, many in (("budget", "budgets"), ("seed", "seeds")):
        if one in given:
            content.pop(many, None)
    return content


def _set_matrix(content: dict[str, object]) -> None:
    """Set the methods and schemes that the user left out; a plan that only includes cells needs none."""
    on_engines = bool(content.get("engines"))
    if not (content.get("include") and "methods" not in content and "schemes" not in content):
        content.setdefault("methods", list(defaults.ENGINE_METHODS if on_engines else defaults.METHODS))
        content.setdefault("schemes", list(defaults.ENGINE_SCHEMES if on_engines else defaults.SCHEMES))
    if content.get("methods") == ["all"]:
        content["methods"] = [name for name in methods.names() if name != methods.REFERENCE]


def _task_name(task: object) -> object:
    """The name of a task as plans write it; None if it has none, which is refused with the plan."""
    if isinstance(task, dict):
        return task.get("name")
    return task_name(task) if isinstance(task, str) else None
