"""Inputs that determine a cell's numbers besides its spec: hashes of contents, versions of code."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

from slmquant import versions

UNKNOWN = "unavailable"
"""Placeholder hash of data that was not available when the cell was planned."""


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
