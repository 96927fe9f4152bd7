"""Track 3, quantization consumption: processor time and memory of what quantizing does, in a process of its own.

Time is the processor time of the cell's process, which the work of others on the machine moves far less than wall time
does; both are told, and how much others took meanwhile. Memory is the highest resident memory within a phase, less what
was resident when it began: the interpreter, its libraries and the loaded model are the same for every method. What
statistics a method reads are captured for its own needs alone, so that a cell costs the same in every plan. A phase
that is over in seconds is repeated, and the median counts (`runs.repeats`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from slmquant.machine.meters import cpu_times, forget_peak, noise_between, peak_rss_bytes, rss_bytes
from slmquant.store.record import Metric, Phase, Repeat
from slmquant.versions import METRICS

VERSION = METRICS["consumption"]
"""1: seconds are load + capture + quantize; memory is the peak resident memory until quantizing ended. 2: loading
stands apart; processor time, memory above what was resident before, noise; captures for a cell's own needs."""


@dataclass
class Meter:
    """Measures phases: wall and processor time, memory, and the work of others."""

    phases: list[Phase] = field(default_factory=list)
    _peak: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block; a block that raises leaves no phase."""
        self._peak = max(self._peak, peak_rss_bytes())
        forgotten = forget_peak()
        resident, others = rss_bytes(), cpu_times()
        started, cpu = time.perf_counter(), time.process_time()
        yield
        seconds, spent = time.perf_counter() - started, time.process_time() - cpu
        noise, peak = noise_between(others, cpu_times()), peak_rss_bytes()
        self._peak = max(self._peak, peak)
        self.phases.append(
            Phase(
                name=name,
                seconds=seconds,
                cpu_s=spent,
                added_rss_bytes=max(0, peak - resident) if forgotten else None,
                noise=None if noise is None else min(1.0, noise.others + noise.stolen),
                peak_rss_bytes=self._peak,
            )
        )


def median_phase(phases: Sequence[Phase]) -> Phase:
    """One phase that was run several times, as medians; every run is kept with it."""
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
    """Figures of track 3 from the phases up to the end of quantizing.

    Args:
        phases: `load`, `capture` where the method reads statistics, `quantize`. A capture that several cells share is
            charged in full, since the method could not have run without it. Loading, which is no part of a method, has
            a figure of its own.
        calibration_tokens: Tokens that the method looked at; None where it looked at none.
    """
    by_name: Mapping[str, Phase] = {phase.name: phase for phase in phases}
    counted = [by_name[name] for name in ("capture", "quantize") if name in by_name]
    protocol = " + ".join(phase.name + (" (shared)" if phase.shared else "") for phase in counted)
    repeats = by_name["quantize"].repeated
    timed = f"{protocol}, median of {len(repeats)} runs" if repeats else protocol
    found = [_metric("quantize_s", sum(phase.seconds for phase in counted), "s", timed)]
    if "load" in by_name:
        found.append(_metric("load_model_s", by_name["load"].seconds, "s", "load"))
    spent = [phase.cpu_s for phase in counted if phase.cpu_s is not None]
    if len(spent) == len(counted):
        times = [run.cpu_s for run in repeats]
        span = f", of which quantize took {min(times):.2f} to {max(times):.2f} s" if times else ""
        found.append(_metric("quantize_cpu_s", sum(spent), "s", f"processor time of {timed}{span}"))
    peaks = [phase.peak_rss_bytes for phase in by_name.values() if phase.peak_rss_bytes is not None]
    if peaks:
        whole = "peak resident memory of the process, interpreter and libraries included"
        found.append(_metric("quantize_peak_rss_bytes", max(peaks), "bytes", whole))
    added = [phase.added_rss_bytes for phase in counted if phase.added_rss_bytes is not None]
    if len(added) == len(counted):
        above = f"peak resident memory above what was resident before, the larger of {protocol.replace(' + ', ', ')}"
        found.append(_metric("quantize_added_rss_bytes", max(added), "bytes", above))
    noise = [phase.noise for phase in counted if phase.noise is not None]
    if noise:
        busy = "largest share of all processor time that others took in a phase"
        found.append(_metric("quantize_noise", max(noise), "ratio", busy).model_copy(update={"higher_is_better": None}))
    if calibration_tokens is not None:
        found.append(Metric(name="calibration_tokens", value=calibration_tokens, unit="tokens", higher_is_better=False))
    return found


def _metric(name: str, value: float, unit: str, protocol: str) -> Metric:
    return Metric(name=name, value=value, unit=unit, higher_is_better=False, version=VERSION, protocol=protocol)
