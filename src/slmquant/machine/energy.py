"""Energy, as the machine's own counters say it: of processor packages (RAPL) or of a graphics card (NVML).

Only what computes is counted: for an engine on a card, the card without the processor that feeds it. Where there is
nothing to read, a counter says why, and what it would say is None, never 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

_POWERCAP = Path("/sys/class/powercap")

Reading = tuple[int, ...]
"""Counters at one time, in the counter's own unit."""


class EnergyCounter(Protocol):
    """What counts energy."""

    @property
    def source(self) -> str:
        """Whose energy ("the processor packages (RAPL)")."""
        ...

    @property
    def reason(self) -> str | None:
        """Why there is nothing to read; None where there is."""
        ...

    def read(self) -> Reading | None:
        """The counters now; None where there are none."""
        ...

    def joules(self, before: Reading | None, after: Reading | None) -> float | None:
        """Energy between two readings; None where either is."""
        ...


class PackageEnergy:
    """The processor packages, by the kernel's power-capping zones.

    Args:
        root: Their folder.
    """

    source = "the processor packages (RAPL)"

    def __init__(self, root: Path = _POWERCAP) -> None:
        zones = sorted(zone for zone in root.glob("*-rapl:*") if zone.name.count(":") == 1 and _is_package(zone))
        self._zones: tuple[Path, ...] = ()
        self.reason: str | None = f"no energy counter: {root} has no RAPL zone"
        if zones:
            try:
                self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
                self._zones, self.reason = tuple(zones), None
                self.read()
            except (OSError, ValueError) as error:
                self._zones = ()
                self.reason = f"the energy counter cannot be read ({type(error).__name__}: {error}); it needs root"

    def read(self) -> Reading | None:
        """Microjoules on each package's counter."""
        return tuple(_number(zone / "energy_uj") for zone in self._zones) if self._zones else None

    def joules(self, before: Reading | None, after: Reading | None) -> float | None:
        """Energy between two readings; a counter that has begun anew in between has done so once."""
        if before is None or after is None:
            return None
        steps = zip(before, after, self._ranges, strict=True)
        return sum(stop - start if stop >= start else stop - start + span for start, stop, span in steps) / 1e6


class CardEnergy:
    """One NVIDIA card, memory and all, as its driver counts since it was loaded (Volta and later).

    The driver renews its counter every few tens of milliseconds, so what is shorter has an error of that size.

    Args:
        uuid: Which card ("GPU-..."), as CUDA names it: NVML and CUDA number cards differently.
    """

    def __init__(self, uuid: str) -> None:
        self.source = f"the card {uuid} (NVML)"
        self.reason: str | None = None
        self._card: Any = None  # NVML's handle has no type
        try:
            import pynvml
        except ImportError:
            self.reason = "no energy counter: nvidia-ml-py is not installed; pip install 'slmquant[nvml]'"
            return
        try:
            pynvml.nvmlInit()
            self._card = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self.read()
        except pynvml.NVMLError as error:
            self._card, self.reason = None, f"the energy counter of {uuid} cannot be read ({error})"

    def read(self) -> Reading | None:
        """Millijoules on the card's counter."""
        if self._card is None:
            return None
        import pynvml

        return (int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._card)),)

    def joules(self, before: Reading | None, after: Reading | None) -> float | None:
        """Energy between two readings."""
        return None if before is None or after is None else (after[0] - before[0]) / 1e3


def _is_package(zone: Path) -> bool:
    """Whether a zone is a processor's: beside them may lie one of the whole platform, which counts them again."""
    try:
        return (zone / "name").read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))
