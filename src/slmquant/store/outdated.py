"""Which records are outdated: measured by older code, or again since with other inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from slmquant import versions
from slmquant.store.inputs import Inputs
from slmquant.store.record import CellSpec, Record

FIRST_WITH_INPUTS = 2
"""The first record schema with `inputs`."""
NOT_RECORDED = "code versions and hashes of configuration, tokenizer and data were not recorded"


class Aged(NamedTuple):
    """What decides whether a record is outdated.

    Attributes:
        cell_id: Its cell.
        finished: Whether a plan skips it.
        question: Hash of `CellSpec.question`.
        versions: JSON of the record's schema, and of the code versions in its inputs.
    """

    cell_id: str
    finished: bool
    question: str
    versions: str


def aged(record: Record) -> Aged:
    """What decides whether a record is outdated."""
    spec = record.spec
    inputs = None if spec.inputs is None else spec.inputs.model_dump(include={"stages", "methods", "metrics"})
    question = hashlib.sha256(spec.question.model_dump_json().encode()).hexdigest()
    return Aged(record.cell_id, record.is_finished, question, json.dumps([record.schema_version, inputs]))


def older(versions: str) -> str | None:
    """Why a record of these versions is outdated; None if this version of slmquant would measure the same."""
    schema, inputs = json.loads(versions)
    if inputs is None:  # also the case if the model was not available
        return NOT_RECORDED if schema < FIRST_WITH_INPUTS else None
    return "; ".join(_version_changes(Inputs(config_sha256="", tokenizer_sha256="", **inputs))) or None


def changes(before: CellSpec, now: CellSpec) -> list[str]:
    """What differs between two cells that were requested by the same names; empty if nothing does."""
    differences = [] if before.model_sha256 == now.model_sha256 else ["the weights"]
    if before.inputs is None or now.inputs is None:
        return differences + (
            [] if before.inputs == now.inputs else ["the version of slmquant (older ones recorded fewer inputs)"]
        )
    a, b = before.inputs, now.inputs
    differences += [] if a.config_sha256 == b.config_sha256 else ["the model's configuration"]
    differences += [] if a.tokenizer_sha256 == b.tokenizer_sha256 else ["the tokenizer"]
    differences += [] if a.calibration_sha256 == b.calibration_sha256 else ["the calibration text"]
    old, new = dict(a.data_sha256), dict(b.data_sha256)
    differences += [f"the data of {task}" for task in new if old.get(task) != new[task]]
    for kind in ("stages", "methods", "metrics"):
        old_versions, new_versions = dict(getattr(a, kind)), dict(getattr(b, kind))
        differences += [
            _raised(name, old_versions.get(name), new_versions[name])
            for name in new_versions
            if old_versions.get(name) != new_versions[name]
        ]
    return differences


def apart(records: Iterable[Record]) -> dict[str, str]:
    """Cell id → why a record is outdated: older code, or measured again since with other inputs.

    Records must be in the order in which they were finished, as the store returns them.
    """
    specs: dict[str, CellSpec] = {}

    def noted() -> Iterator[Aged]:
        for record in records:
            facts = aged(record)
            specs[facts.cell_id] = record.spec
            yield facts

    return superseded(noted(), specs.__getitem__)


def superseded(cells: Iterable[Aged], spec_of: Callable[[str], CellSpec]) -> dict[str, str]:
    """As `apart`, of records that were not read; `spec_of` reads the spec of a cell."""
    reasons: dict[str, str] = {}
    latest: dict[str, str] = {}
    reason_of = cache(older)  # many records have the same versions
    for cell in cells:
        if (reason := reason_of(cell.versions)) is not None:
            reasons[cell.cell_id] = f"measured by older code: {reason}"
        elif cell.finished:
            before = latest.get(cell.question)
            if before is not None:
                what = ", ".join(changes(spec_of(before), spec_of(cell.cell_id)))
                reasons[before] = f"measured again after a change of {what}"
            latest[cell.question] = cell.cell_id
    return reasons


def _version_changes(inputs: Inputs) -> list[str]:
    known: tuple[tuple[tuple[tuple[str, int], ...], Mapping[str, int]], ...] = (
        (inputs.stages, versions.STAGES),
        (inputs.methods, versions.of_method("+".join(name for name, _ in inputs.methods)) if inputs.methods else {}),
        (inputs.metrics, versions.METRICS),
    )
    return [_raised(n, v, current.get(n)) for pairs, current in known for n, v in pairs if current.get(n) != v]


def _raised(name: str, before: int | None, now: int | None) -> str:
    return f"{name!r} (version {before}, now {now or 'removed'})"
