"""Phases of a piece of work, measured: wall and processor time, memory, and the work of others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from slmquant.machine.meters import cpu_times, forget_peak, noise_between, peak_rss_bytes, rss_bytes
from slmquant.store.record import Phase


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
