"""Track 2, inference: so far the stored size. Speed and memory belong to real engines and are not guessed here."""

from __future__ import annotations

from slmquant.model.size import ModelSize
from slmquant.store.record import Metric

VERSION = 1
"""1: the definition in `model.size`."""


def size_metrics(size: ModelSize, kv_bits: float | None = None) -> list[Metric]:
    """Stored bytes and bits per weight of the whole model, of its quantized linears, and of a rounded cache."""
    metrics = [
        Metric(name="stored_bytes", value=size.stored_bytes, unit="bytes", higher_is_better=False, version=VERSION),
        Metric(
            name="bpw", value=size.bpw, unit="bits", higher_is_better=False, n=size.parameters, version=VERSION,
            protocol="whole model: scales, zero points, embeddings and head included",
        ),
    ]  # fmt: skip
    if size.bpw_linears is not None:
        metrics.append(
            Metric(
                name="bpw_linears", value=size.bpw_linears, unit="bits", higher_is_better=False, version=VERSION,
                protocol="quantized linears of the blocks only",
            )
        )  # fmt: skip
    if kv_bits is not None:
        metrics.append(
            Metric(
                name="kv_bits", value=kv_bits, unit="bits", higher_is_better=False, version=VERSION,
                protocol="a cached key or value on average, scales and minima included",
            )
        )  # fmt: skip
    return metrics
