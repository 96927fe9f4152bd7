"""What decides a cell's numbers beside the names in its spec: contents by hash, code by version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from slmquant import versions

if TYPE_CHECKING:
    from slmquant.store.record import CellSpec, Record

UNKNOWN = "unavailable"
"""In place of the hash of data that could not be had when the cell was planned."""


FIRST_WITH_INPUTS = 2
"""The first schema of records that has them."""
NOT_RECORDED = "versions of its code, and hashes of configuration, tokenizer and data, were not recorded then"


class Inputs(BaseModel):
    """Hashes of what a cell reads, and versions of the code that computes it. Part of the cell's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config_sha256: str
    """Of the model's configuration; see `model.sources.identity`."""
    tokenizer_sha256: str
    """Of the files of its tokenizer."""
    calibration_sha256: str | None = None
    """Of the calibration text; None where the cell looks at no data."""
    data_sha256: tuple[tuple[str, str], ...] = ()
    """(name of a task, hash of its text or rows)."""
    stages: tuple[tuple[str, int], ...] = ()
    """(stage of `slmquant.versions`, its version), of the stages that the cell goes through."""
    methods: tuple[tuple[str, int], ...] = ()
    """(part of the method's name, its version)."""
    metrics: tuple[tuple[str, int], ...] = ()
    """(kind of metric, its version)."""

    def on_engine(self) -> Inputs:
        """Those of the cell in which an engine runs the quantized model: it is asked no tasks."""
        metrics = (("engine", versions.METRICS["engine"]),)
        return self.model_copy(update={"data_sha256": (), "metrics": metrics})


def model_key(weights: str, config: str, tokenizer: str) -> str:
    """One hash of a model's weights, configuration and tokenizer: the name of what is cached of it."""
    return hashlib.sha256(f"{weights} {config} {tokenizer}".encode()).hexdigest()


def older(record: Record) -> str | None:
    """Why the row is not what this version of slmquant would measure; None where its code is the current one."""
    inputs = record.spec.inputs
    if inputs is None:  # so it is, too, where the model could not be had
        return NOT_RECORDED if record.schema_version < FIRST_WITH_INPUTS else None
    return "; ".join(_version_changes(inputs)) or None


def changes(before: CellSpec, now: CellSpec) -> list[str]:
    """What differs between two cells that were asked for by the same words; empty where nothing does."""
    found = [] if before.model_sha256 == now.model_sha256 else ["the weights"]
    if before.inputs is None or now.inputs is None:
        return found + ([] if before.inputs == now.inputs else ["an older version of slmquant, which recorded less"])
    a, b = before.inputs, now.inputs
    found += [] if a.config_sha256 == b.config_sha256 else ["the model's configuration"]
    found += [] if a.tokenizer_sha256 == b.tokenizer_sha256 else ["the tokenizer"]
    found += [] if a.calibration_sha256 == b.calibration_sha256 else ["the calibration text"]
    theirs, ours = dict(a.data_sha256), dict(b.data_sha256)
    found += [f"the data of {task}" for task in ours if theirs.get(task) != ours[task]]
    for kind in ("stages", "methods", "metrics"):
        theirs_, ours_ = dict(getattr(a, kind)), dict(getattr(b, kind))
        found += [_raised(name, theirs_.get(name), ours_[name]) for name in ours_ if theirs_.get(name) != ours_[name]]
    return found


def apart(records: Iterable[Record]) -> dict[str, str]:
    """Cell id → why a row does not stand among the others: it is older, or was measured again since of other inputs.

    Records are given in the order in which they were finished, as the store gives them.
    """
    found: dict[str, str] = {}
    latest: dict[CellSpec, Record] = {}
    for record in records:
        if (reason := older(record)) is not None:
            found[record.cell_id] = f"of an older version: {reason}"
        elif record.status in ("ok", "refused"):
            before = latest.get(record.spec.question)
            if before is not None:
                what = ", ".join(changes(before.spec, record.spec))
                found[before.cell_id] = f"measured again since, as there was a change of {what}"
            latest[record.spec.question] = record
    return found


def _version_changes(inputs: Inputs) -> list[str]:
    known: tuple[tuple[tuple[tuple[str, int], ...], Mapping[str, int]], ...] = (
        (inputs.stages, versions.STAGES),
        (inputs.methods, versions.of_method("+".join(name for name, _ in inputs.methods)) if inputs.methods else {}),
        (inputs.metrics, versions.METRICS),
    )
    return [_raised(n, v, current.get(n)) for pairs, current in known for n, v in pairs if current.get(n) != v]


def _raised(name: str, before: int | None, now: int | None) -> str:
    return f"version {before} of {name!r}, which is now {now or 'gone'}"
