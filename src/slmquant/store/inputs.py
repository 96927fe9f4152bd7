"""Inputs that determine a cell's numbers besides its spec: hashes of contents, versions of code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from slmquant import versions

if TYPE_CHECKING:
    from slmquant.store.record import CellSpec, Record

UNKNOWN = "unavailable"
"""Placeholder hash of data that was not available when the cell was planned."""


FIRST_WITH_INPUTS = 2
"""The first record schema with `inputs`."""
NOT_RECORDED = "code versions and hashes of configuration, tokenizer and data were not recorded"


class Inputs(BaseModel):
    """Hashes of the data and files a cell reads, and versions of the code that computes it; part of its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config_sha256: str
    """Hash of the model's configuration; see `model.sources.identity`."""
    tokenizer_sha256: str
    """Hash of the tokenizer files."""
    calibration_sha256: str | None = None
    """Hash of the calibration text; None if the cell uses no data."""
    data_sha256: tuple[tuple[str, str], ...] = ()
    """(task name, hash of its text or rows) for each task."""
    stages: tuple[tuple[str, int], ...] = ()
    """(stage name, its version in `slmquant.versions`) for each stage of the cell."""
    methods: tuple[tuple[str, int], ...] = ()
    """(part of the method name, its version)."""
    metrics: tuple[tuple[str, int], ...] = ()
    """(kind of metric, its version)."""

    def on_engine(self) -> Inputs:
        """The inputs of the cell in which an engine runs the quantized model, which has no tasks."""
        metrics = (("engine", versions.METRICS["engine"]),)
        return self.model_copy(update={"data_sha256": (), "metrics": metrics})


def model_key(weights: str, config: str, tokenizer: str) -> str:
    """One hash of a model's weights, configuration and tokenizer, used as a cache key."""
    return hashlib.sha256(f"{weights} {config} {tokenizer}".encode()).hexdigest()


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
        elif record.status in ("ok", "refused"):
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
