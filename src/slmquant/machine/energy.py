"""Energy from the machine's own counters: of processor packages (RAPL) or of a graphics card (NVML).

Only the computing device is counted: for an engine on a card, the card without the processor that feeds it. If a
counter cannot be read, its readings are None (never 0), and it states the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

_POWERCAP = Path("/sys/class/powercap")

Reading = tuple[int, ...]
"""Counter values at one time, in the counter's own unit."""


class EnergyCounter(Protocol):
    """An energy counter."""

    @property
    def source(self) -> str:
        """The measured device ("the processor packages (RAPL)")."""
        ...

    @property
    def reason(self) -> str | None:
        """Why the counter cannot be read; None if it can."""
        ...

    def read(self) -> Reading | None:
        """The current counter values; None if they cannot be read."""
        ...

    def joules(self, before: Reading | None, after: Reading | None) -> float | None:
        """Energy between two readings; None if either is None."""
        ...


class PackageEnergy:
    """Energy of the processor packages, from the kernel's power-capping zones.

    Args:
        root: Folder of the zones.
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
        """Microjoules of each package's counter."""
        return tuple(_number(zone / "energy_uj") for zone in self._zones) if self._zones else None

    def joules(self, before: Reading | None, after: Reading | None) -> float | None:
        """Energy between two readings; a counter may have wrapped around once in between."""
        if before is None or after is None:
            return None
        steps = zip(before, after, self._ranges, strict=True)
        return sum(stop - start if stop >= start else stop - start + span for start, stop, span in steps) / 1e6


class CardEnergy:
    """Energy of one NVIDIA card including its memory, from the driver's counter (Volta and later).

    The driver updates its counter every few tens of milliseconds, so measurements have an error of that duration.

    Args:
        uuid: The card's CUDA UUID ("GPU-..."); NVML and CUDA number cards differently.
    """

    def __init__(self, uuid: str) -> None:
        self.source = f"the card {uuid} (NVML)"
        self.reason: str | None = None
        self._card: Any = None  # NVML's handle is untyped
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
        """Millijoules of the card's counter."""
        if self._card is None:
            return None
        import pynvml

        return (int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._card)),)

    def joules(self, before: Reading | None, after: Reading | None) -> float | None:
        """Energy between two readings."""
        return None if before is None or after is None else (after[0] - before[0]) / 1e3


def _is_package(zone: Path) -> bool:
    """Whether a zone is a processor package; a zone of the whole platform would count the packages again."""
    try:
        return (zone / "name").read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))
