"""Track 3, quantization consumption: time, memory, bytes and energy of quantizing, in a separate process.

Time is the processor time of the cell's process, which other processes on the machine affect far less than wall time.
Both are reported, with the share of processor time that others took. Memory is the peak resident memory within a phase
minus the resident memory at its start, because interpreter, libraries and loaded model are the same for every method.
Calibration statistics are captured only as far as the method needs them, so that a cell costs the same in every plan. A
phase of a few seconds is repeated, and the median counts (`runs.repeats`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from slmquant.store.record import Metric, Phase, Repeat
from slmquant.versions import METRICS

VERSION = METRICS["consumption"]
"""1: seconds are load + capture + quantize; memory is the peak resident memory until quantizing ended. 2: loading is
separate; processor time, memory above what was resident before, noise; captures only what the cell needs."""


def median_phase(phases: Sequence[Phase]) -> Phase:
    """Combine several runs of one phase into medians; the runs are kept in `repeated`."""
    first = phases[0]
    runs = tuple(
        Repeat(seconds=p.seconds, cpu_s=p.cpu_s or 0.0, added_rss_bytes=p.added_rss_bytes, noise=p.noise)
        for p in phases
    )
    added = [run.added_rss_bytes for run in runs if run.added_rss_bytes is not None]
    noise = [run.noise for run in runs if run.noise is not None]
    return first.model_copy(
        update={
            "seconds": statistics.median(run.seconds for run in runs),
            "cpu_s": statistics.median(run.cpu_s for run in runs),
            "added_rss_bytes": round(statistics.median(added)) if added else None,
            "noise": max(noise) if noise else None,
            "repeated": runs,
        }
    )


def consumption_metrics(phases: Sequence[Phase], calibration_tokens: int | None) -> list[Metric]:
    """Metrics of track 3, from the phases up to the end of quantizing.

    Args:
        phases: `load`, `capture` if the method reads statistics, and `quantize`. A capture shared by several cells is
            charged in full, because the method could not run without it. Loading is not part of a method and has its
            own metric.
        calibration_tokens: Number of tokens that the method used; None if it uses no data.
    """
    by_name: Mapping[str, Phase] = {phase.name: phase for phase in phases}
    counted = [by_name[name] for name in ("capture", "quantize") if name in by_name]
    protocol = " + ".join(phase.name + (" (shared)" if phase.shared else "") for phase in counted)
    repeats = by_name["quantize"].repeated
    timed = f"{protocol}, median of {len(repeats)} runs" if repeats else protocol
    metrics = [_metric("quantize_s", sum(phase.seconds for phase in counted), "s", timed)]
    if "load" in by_name:
        metrics.append(_metric("load_model_s", by_name["load"].seconds, "s", "load"))
    spent = [phase.cpu_s for phase in counted if phase.cpu_s is not None]
    if len(spent) == len(counted):
        times = [run.cpu_s for run in repeats]
        span = f", of which quantize took {min(times):.2f} to {max(times):.2f} s" if times else ""
        metrics.append(_metric("quantize_cpu_s", sum(spent), "s", f"processor time of {timed}{span}"))
    peaks = [phase.peak_rss_bytes for phase in by_name.values() if phase.peak_rss_bytes is not None]
    if peaks:
        whole = "peak resident memory of the process, interpreter and libraries included"
        metrics.append(_metric("quantize_peak_rss_bytes", max(peaks), "bytes", whole))
    added = [phase.added_rss_bytes for phase in counted if phase.added_rss_bytes is not None]
    if len(added) == len(counted):
        above = f"peak resident memory above what was resident before, the larger of {protocol.replace(' + ', ', ')}"
        metrics.append(_metric("quantize_added_rss_bytes", max(added), "bytes", above))
    noise = [phase.noise for phase in counted if phase.noise is not None]
    if noise:
        busy = "largest share of all processor time that others took in a phase"
        metrics.append(
            _metric("quantize_noise", max(noise), "ratio", busy).model_copy(update={"higher_is_better": None})
        )
    metrics += _where_counted(counted, protocol)
    if calibration_tokens is not None:
        metrics.append(
            Metric(name="calibration_tokens", value=calibration_tokens, unit="tokens", higher_is_better=False)
        )
    return metrics


def _where_counted(counted: Sequence[Phase], protocol: str) -> list[Metric]:
    """Bytes, energy and device memory, each if it was measured in all phases; of the first of several runs."""
    sums = (
        ("quantize_read_bytes", [phase.read_bytes for phase in counted], "bytes", "read from disks by the process in"),
        ("quantize_written_bytes", [phase.written_bytes for phase in counted], "bytes", "written to disks in"),
        ("quantize_energy_j", [phase.energy_j for phase in counted], "J", "energy of the whole device during"),
    )
    found = [
        _metric(name, sum(known), unit, f"{words} {protocol}")
        for name, values, unit, words in sums
        if len(known := [value for value in values if value is not None]) == len(values)
    ]
    peaks = [phase.device_peak_bytes for phase in counted if phase.device_peak_bytes is not None]
    if peaks and len(peaks) == len(counted):
        words = f"peak memory on the graphics card, the larger of {protocol.replace(' + ', ', ')}"
        found.append(_metric("quantize_device_peak_bytes", max(peaks), "bytes", words))
    return found


def _metric(name: str, value: float, unit: str, protocol: str) -> Metric:
    return Metric(name=name, value=value, unit=unit, higher_is_better=False, version=VERSION, protocol=protocol)
