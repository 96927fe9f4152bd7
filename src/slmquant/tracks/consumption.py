"""Track 3, quantization consumption: wall time by phase, and peak memory of a process of its own.

Memory is resident memory as the operating system accounts for it: it counts the interpreter and its libraries
(`baseline`), which are the same for every method. A cell runs in a process that does nothing else, so the peak
up to the end of quantizing is the method's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from slmquant.store.record import Metric, Phase
from slmquant.tracks._meters import peak_rss_bytes

VERSION = 1
"""1: seconds are load + capture + quantize; memory is the peak resident memory until quantizing ended."""


@dataclass
class Meter:
    """Times phases and reads the peak of resident memory at the end of each."""

    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block; a block that raises leaves no phase."""
        started = time.perf_counter()
        yield
        self.phases.append(Phase(name=name, seconds=time.perf_counter() - started, peak_rss_bytes=peak_rss_bytes()))


def consumption_metrics(phases: Sequence[Phase], calibration_tokens: int | None) -> list[Metric]:
    """Figures of track 3 from the phases up to the end of quantizing.

    Args:
        phases: `load`, `capture` where the method calibrates, `quantize`; a shared capture is charged in full,
            since the method could not have run without it.
        calibration_tokens: Tokens that the method looked at; None where it looked at none.
    """
    by_name: Mapping[str, Phase] = {phase.name: phase for phase in phases}
    counted = [by_name[name] for name in ("load", "capture", "quantize") if name in by_name]
    peaks = [phase.peak_rss_bytes for phase in counted if phase.peak_rss_bytes is not None]
    metrics = [
        Metric(
            name="quantize_s",
            value=sum(phase.seconds for phase in counted),
            unit="s",
            higher_is_better=False,
            version=VERSION,
            protocol=" + ".join(phase.name + (" (shared)" if phase.shared else "") for phase in counted),
        )
    ]
    if peaks:
        metrics.append(
            Metric(
                name="quantize_peak_rss_bytes",
                value=max(peaks),
                unit="bytes",
                higher_is_better=False,
                version=VERSION,
                protocol="peak resident memory of the process, interpreter and libraries included",
            )
        )
    if calibration_tokens is not None:
        metrics.append(
            Metric(name="calibration_tokens", value=calibration_tokens, unit="tokens", higher_is_better=False)
        )
    return metrics
