"""Cells of models with random weights on engines: their speed and memory count, and they have no quality."""

from __future__ import annotations

from slmquant.store.record import Record

PREFIX = "random-"
"""What the names of such models begin with."""
RANDOM_WEIGHTS = "random weights"
"""The provenance of such models."""
WEIGHT_BYTES = "weight_bytes"
"""Metric: bytes of all weights in the file; a decoded token reads them, as embedding and head are one."""
CACHE_BYTES = "cache_bytes"
"""Metric: bytes of the keys and values of the longest sequence in 16 bits, by arithmetic."""


def is_random(record: Record) -> bool:
    """Whether it is a cell of a model with random weights."""
    return record.spec.model.startswith(PREFIX) and record.spec.engine is not None and record.model is not None
