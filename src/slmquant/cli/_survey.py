"""Looks over a plan for `plan` and `bench --dry-run`, and prints what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.cli._output import print_json, print_table, say, tell

if TYPE_CHECKING:
    from slmquant.runs.inputs import Data
    from slmquant.runs.plan import Plan
    from slmquant.runs.survey import PlannedCell, State, Survey, SurveyJob
    from slmquant.store import Record
    from slmquant.store.record import CellSpec


def survey_job(plan: Plan, store: Path | None, data: Path | None, records: Sequence[Path] = ()) -> SurveyJob:
    """A plan, the rows of the store that it would be run in, and rows to learn costs from.

    Args:
        plan: The plan.
        store: The store; None for the default one. It need not exist.
        data: Local folder of data.
        records: Further stores and published files to learn from.

    Raises:
        StoreError: A store or file cannot be read.
    """
    from slmquant.machine.environment import environment
    from slmquant.places import Places
    from slmquant.runs.survey import SurveyJob
    from slmquant.store import Store, default_store_path
    from slmquant.store.combine import cells
    from slmquant.store.sqlite import begun

    path = store or default_store_path()
    known: list[Record] = []
    if begun(path):
        with Store(path, read_only=True) as opened:
            known = opened.records()
    learned = [*known, *(record for record, _ in cells(records))]
    here = [record for record in learned if record.environment.cpu == environment().cpu]
    return SurveyJob(plan, tuple(known), tuple(here or learned), Places(data))


def print_survey(job: SurveyJob, json: bool) -> None:
    """Look over a plan and print every cell, what is in the way, and the total cost."""
    from slmquant.cli._output import progress_bar
    from slmquant.runs.survey import survey

    with progress_bar(json) as progress:
        found = survey(job, progress)
    if json:
        print_json(_as_json(found))
        return
    varied = [name for name in ("seed", "draw", "budget") if len({_value(cell.spec, name) for cell in found.cells}) > 2]
    on_engines = any(cell.spec.engine for cell in found.cells)
    notes = {(problem.state, problem.reason): number for number, problem in enumerate(found.problems, start=1)}
    print_table(
        f"{len(found.cells)} cells",
        ("model", "method", "scheme", *varied, *(["engine"] if on_engines else []), "state", "CPU time", "memory",
         "records"),
        [_row(cell, varied, on_engines, notes) for cell in found.cells],
    )  # fmt: skip
    say("")
    for number, problem in enumerate(found.problems, start=1):
        say(f"[{number}] {problem}")
    for remark in found.remarks:
        say(remark)
    licences = "; ".join(f"{name}: {licence}" for name, licence in found.licences.items())
    say(f"licences: {licences}\n{_total(found)}")


def tell_problems(job: SurveyJob) -> Data | None:
    """Look over a plan in a process of its own, and tell what is in the way of cells that are not in the store.

    Returns:
        Hashes of the plan's data; None if that failed.
    """
    from slmquant.cli._output import progress_bar
    from slmquant.machine.process import Failure, run_isolated
    from slmquant.runs.survey import survey

    with progress_bar() as progress:
        found = run_isolated(survey, job, progress)
    if isinstance(found, Failure):
        tell(f"the plan could not be looked over before it starts: {found.reason}")
        return None
    stored = {record.cell_id for record in job.known}
    new = {(cell.state, cell.reason) for cell in found.cells if cell.spec.cell_id not in stored}
    for problem in found.problems:
        if not problem.cells or (problem.state, problem.reason) in new:
            tell(f"before it starts: {problem}")
    for remark in found.remarks:
        tell(remark)
    return found.data


def _value(spec: CellSpec, name: str) -> str:
    if name == "draw":
        return "" if spec.calibration is None else str(spec.calibration.seed)
    return str(getattr(spec, name) or ("" if name == "budget" else 0))


def _row(
    cell: PlannedCell, varied: Sequence[str], on_engines: bool, notes: Mapping[tuple[State, str], int]
) -> tuple[str, ...]:
    from slmquant.boundary import size_text

    spec, estimate = cell.spec, cell.estimate
    note = notes.get((cell.state, cell.reason or ""))
    cpu, peak, records = "", "", ""
    if cell.state == "to do":
        cpu = peak = "unknown"
        if estimate is not None and estimate.cpu_s is not None:
            cpu, records = duration(estimate.cpu_s), str(estimate.records)
        if estimate is not None and estimate.peak_bytes is not None:
            peak = size_text(estimate.peak_bytes)
    return (
        spec.model,
        spec.method,
        spec.scheme,
        *(_value(spec, name) for name in varied),
        *([spec.engine or "torch"] if on_engines else []),
        cell.state if note is None else f"{cell.state} [{note}]",
        cpu,
        peak,
        records,
    )


def duration(seconds: float) -> str:
    """A time in two figures: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _total(found: Survey) -> str:
    states = [cell.state for cell in found.cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    known = states.count("to do") - found.unknown
    if not states.count("to do"):
        return counts
    if not known:
        return f"{counts}; the cost is unknown, as no record of such cells is at hand (--records names others)"
    rest = f", and {found.unknown} of unknown cost" if found.unknown else ""
    return f"{counts}; about {duration(found.cpu_s)} of processor time for {known} of them{rest}"


def _as_json(found: Survey) -> dict[str, object]:
    return {
        "cells": [
            {
                "cell": cell.spec.cell_id,
                "label": cell.spec.label,
                "spec": cell.spec.model_dump(mode="json", exclude={"inputs", "model_sha256"}),
                "state": cell.state,
                "reason": cell.reason,
                "cpu_s": cell.estimate and cell.estimate.cpu_s,
                "peak_bytes": cell.estimate and cell.estimate.peak_bytes,
                "records": cell.estimate and cell.estimate.records,
            }
            for cell in found.cells
        ],
        "problems": [str(problem) for problem in found.problems],
        "remarks": found.remarks,
        "licences": found.licences,
        "cpu_s": found.cpu_s,
        "cells_of_unknown_cost": found.unknown,
        "learned_from": found.learned,
    }
