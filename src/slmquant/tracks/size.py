"""Metrics of track 2, inference, that need no engine: the size of a quantized model."""

from __future__ import annotations

from slmquant.model.size import ModelSize
from slmquant.store.record import Metric
from slmquant.versions import METRICS

SIZES = METRICS["size"]
"""Version of the size metrics; 2: as in `model.size`."""


def size_metrics(size: ModelSize, kv_bits: float | None = None) -> list[Metric]:
    """Stored bytes and bits per weight: of the whole model, its quantized linears, and a rounded KV cache."""
    metrics = [
        Metric(name="stored_bytes", value=size.stored_bytes, unit="bytes", higher_is_better=False, version=SIZES),
        Metric(
            name="bpw", value=size.bpw, unit="bits", higher_is_better=False, n=size.parameters, version=SIZES,
            protocol="whole model: scales, zero points, embeddings and head included",
        ),
    ]  # fmt: skip
    if size.bpw_linears is not None:
        metrics.append(
            Metric(
                name="bpw_linears", value=size.bpw_linears, unit="bits", higher_is_better=False, version=SIZES,
                protocol="quantized linears of the blocks only",
            )
        )  # fmt: skip
    if kv_bits is not None:
        metrics.append(
            Metric(
                name="kv_bits", value=kv_bits, unit="bits", higher_is_better=False, version=SIZES,
                protocol="a cached key or value on average, scales and minima included",
            )
        )  # fmt: skip
    return metrics
