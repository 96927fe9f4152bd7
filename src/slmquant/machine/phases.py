"""Phases of a piece of work, measured: time, memory, bytes read and written, energy, and the work of others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from slmquant.machine.device import device_peak_bytes, energy_counter, forget_device_peak
from slmquant.machine.energy import EnergyCounter
from slmquant.machine.meters import (
    NO_DISK_COUNTERS,
    cpu_times,
    disk_bytes,
    forget_peak,
    noise_between,
    peak_rss_bytes,
    rss_bytes,
)
from slmquant.store.record import Phase


@dataclass
class Meter:
    """Measures phases of work on a torch device.

    Attributes:
        device: The device.
        phases: The phases so far.
    """

    device: str = "cpu"
    phases: list[Phase] = field(default_factory=list)
    _peak: int = 0
    _energy: EnergyCounter = field(init=False)

    def __post_init__(self) -> None:
        """Find the device's energy counter."""
        self._energy = energy_counter(self.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block; a block that raises leaves no phase."""
        self._peak = max(self._peak, peak_rss_bytes())
        forgotten = forget_peak()
        forget_device_peak(self.device)
        resident, others, disk = rss_bytes(), cpu_times(), disk_bytes()
        energy = self._energy.read()
        started, cpu = time.perf_counter(), time.process_time()
        yield
        seconds, spent = time.perf_counter() - started, time.process_time() - cpu
        joules = self._energy.joules(energy, self._energy.read())
        noise, peak, disk_after = noise_between(others, cpu_times()), peak_rss_bytes(), disk_bytes()
        self._peak = max(self._peak, peak)
        known = disk is not None and disk_after is not None
        self.phases.append(
            Phase(
                name=name,
                seconds=seconds,
                cpu_s=spent,
                added_rss_bytes=max(0, peak - resident) if forgotten else None,
                noise=None if noise is None else min(1.0, noise.others + noise.stolen),
                peak_rss_bytes=self._peak,
                device_peak_bytes=device_peak_bytes(self.device),
                read_bytes=disk_after.read - disk.read if disk and disk_after else None,
                written_bytes=disk_after.written - disk.written if disk and disk_after else None,
                energy_j=joules,
                absent=self._absent(known, joules is not None),
            )
        )

    def _absent(self, has_disk: bool, has_energy: bool) -> dict[str, str]:
        """Why bytes or energy were not measured."""
        reasons = {} if has_disk else {"read_bytes": NO_DISK_COUNTERS, "written_bytes": NO_DISK_COUNTERS}
        if not has_energy:
            reasons["energy_j"] = self._energy.reason or "the energy counter could not be read"
        return reasons
