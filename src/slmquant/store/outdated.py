"""Which records are outdated: measured by older code, or again since with other inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slmquant import versions
from slmquant.store.inputs import Inputs
from slmquant.store.record import CellSpec, Record

FIRST_WITH_INPUTS = 2
"""The first record schema with `inputs`."""
NOT_RECORDED = "code versions and hashes of configuration, tokenizer and data were not recorded"


def older(record: Record) -> str | None:
    """Why a record is outdated; None if this version of slmquant would measure the same."""
    inputs = record.spec.inputs
    if inputs is None:  # also the case if the model was not available
        return NOT_RECORDED if record.schema_version < FIRST_WITH_INPUTS else None
    return "; ".join(_version_changes(inputs)) or None


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
    reasons: dict[str, str] = {}
    latest: dict[CellSpec, Record] = {}
    for record in records:
        if (reason := older(record)) is not None:
            reasons[record.cell_id] = f"measured by older code: {reason}"
        elif record.is_finished:
            before = latest.get(record.spec.question)
            if before is not None:
                what = ", ".join(changes(before.spec, record.spec))
                reasons[before.cell_id] = f"measured again after a change of {what}"
            latest[record.spec.question] = record
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
