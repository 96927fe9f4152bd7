"""Makes a plan from a file and the command's options together, with defaults for what neither says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slmquant import methods
from slmquant.calib.corpora import calibration_corpus
from slmquant.runs import defaults
from slmquant.runs.plan import Plan, as_task, make_plan, read_plan_fields
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
        PlanError: The file cannot be read, or a field is missing, unknown or wrong.
        UnknownNameError: A method, a task, a suite or a corpus is not known.
        RefusedError: Methods joined by `+` cannot be combined.
        SchemeError: A scheme cannot be read.
    """
    remarks: list[str] = []
    content: dict[str, object] = {} if path is None else read_plan_fields(path)
    content |= {name: value for name, value in fields.items() if value is not None and value != []}
    if "tasks" not in content or suite is not None:
        chosen = choose_suite(suite or defaults.SUITE, data_dir)
        given = content.get("tasks")
        tasks = [as_task(task) for task in given] if isinstance(given, list) else []
        names = {task.name for task in tasks}  # these keep the user's limit
        content["tasks"] = [*(task for task in chosen.tasks if task.name not in names), *tasks]
        remarks += [chosen.remark] if chosen.remark else []
    on_engines = bool(content.get("engines"))
    content.setdefault("methods", list(defaults.ENGINE_METHODS if on_engines else defaults.METHODS))
    if content["methods"] == ["all"]:
        content["methods"] = [name for name in methods.names() if name != methods.REFERENCE]
    content.setdefault("schemes", list(defaults.ENGINE_SCHEMES if on_engines else defaults.SCHEMES))
    window = content.get("calibration") or {}
    if isinstance(window, dict):  # anything else is refused with the plan
        window = window | {name: value for name, value in calibration.items() if value is not None}
        if "corpus" not in window:
            window["corpus"] = calibration_corpus(data_dir)
            remarks.append(f"calibrating on {window['corpus']}")
    return make_plan(content | {"calibration": window}), remarks
