"""Table of what quantizing cost each published cell."""

from __future__ import annotations

from collections.abc import Sequence

from slmquant.errors import StoreError
from slmquant.report._document_cells import (
    ABSENT,
    Answers,
    calibration_seed,
    chosen_of,
    each_of,
    markdown,
    method_of,
    value_of,
)
from slmquant.store.export import calibration_label
from slmquant.store.record import Record

_FEW_SECONDS = 10.0
"""Below this, seconds are shown with one decimal."""


def costs(records: Sequence[Record], answers: Answers, wanted: str) -> str:  # noqa: ARG001  # same signature as the other tables
    """Table of the cost of quantizing each cell: processor time and memory above the loaded model."""
    chosen = [r for r in chosen_of(records, wanted) if r.status == "ok" and r.metric("quantize_cpu_s") is not None]
    if not chosen:
        raise StoreError(f"no published cell that matches {wanted!r} has a measured cost of quantizing")
    chosen.sort(key=lambda record: value_of(record, "quantize_cpu_s", None))
    with_seed = len({seed for r in chosen if (seed := calibration_seed(r)) is not None}) > 1
    rows = []
    for record in chosen:
        added = record.metric("quantize_added_rss_bytes")
        rows.append(
            (
                method_of(record, with_seed=with_seed),
                record.spec.scheme,
                _phase_cpu(record, "capture"),
                _phase_cpu(record, "quantize"),
                _seconds(value_of(record, "quantize_cpu_s", None)),
                ABSENT if added is None else f"{added.value / 1e6:.0f}",
            )
        )
    heads = ("method", "scheme", "statistics, CPU s", "quantizing, CPU s", "both, CPU s", "added MB")
    return markdown(heads, rows) + "\n" + _cost_conditions(chosen) + "\n"


def _phase_cpu(record: Record, name: str) -> str:
    """Processor seconds of a phase, with the range if it was repeated."""
    phase = next((phase for phase in record.phases if phase.name == name), None)
    if phase is None or phase.cpu_s is None:
        return ABSENT
    times = [run.cpu_s for run in phase.repeated]
    span = f" ({_seconds(min(times))} to {_seconds(max(times))})" if times else ""
    return _seconds(phase.cpu_s) + span


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < _FEW_SECONDS else f"{value:.0f}"


def _cost_conditions(chosen: Sequence[Record]) -> str:
    """One line: models, calibration, machines, load of other processes, and what the columns count."""
    parts = [each_of(record.spec.model for record in chosen)]
    if labels := each_of(calibration_label(record.spec.calibration) for record in chosen):
        parts.append(f"calibrated on {labels}")
    machines = each_of(f"{record.environment.cpu}, {record.environment.threads} threads" for record in chosen)
    parts.append(f"computed in {each_of(record.spec.compute_dtype for record in chosen)} on {machines}")
    noise = [metric.value for record in chosen if (metric := record.metric("quantize_noise")) is not None]
    if noise:
        parts.append(f"other processes took up to {max(noise):.0%} of all processor time")
    return "; ".join(parts) + (
        ". Seconds are processor time of the cell's process over all threads, the median of several runs; shared "
        "statistics are charged to each cell. Memory is the peak above what was resident before."
    )
