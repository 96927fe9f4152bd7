"""Meters from the operating system: resident memory of the process, and load from other processes.

On Linux they read files in `/proc` and `/sys`. A reading whose file is missing is None, never 0.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")


def peak_rss_bytes() -> int:
    """Peak resident memory of this process since it started, or since `forget_peak`."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> bool:
    """Reset the peak-RSS counter; False if unsupported."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def rss_bytes() -> int:
    """Current resident memory of this process, pages of mapped files included."""
    return int(psutil.Process().memory_info().rss)


def mapped_bytes(artifact: Path, smaps: Path = _PROC / "self" / "smaps") -> int | None:
    """Resident memory that maps the file `artifact`, or the files in the folder `artifact`.

    It counts as resident memory, but the system may drop these pages and read them again at any time. None if the
    system does not report it, or if `artifact` does not exist.
    """
    if not smaps.exists() or not artifact.exists():
        return None
    here = artifact.resolve()
    resident, inside = 0, False
    for line in smaps.read_text(encoding="utf-8", errors="replace").splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # header of a mapping: addresses, permissions, offset, device, inode, path
            path = Path(line.split(maxsplit=5)[5]) if line.count("/") else None
            inside = path is not None and (path == here or here in path.parents)
        elif inside and first == "Rss:":
            resident += int(rest.split()[0]) * 1024
    return resident


def bytes_on_disk(artifact: Path) -> int | None:
    """Size of a file, or of all files in a folder; None if there is neither."""
    if artifact.is_file():
        return artifact.stat().st_size
    return sum(f.stat().st_size for f in artifact.rglob("*") if f.is_file()) if artifact.is_dir() else None


@dataclass(frozen=True)
class DiskBytes:
    """Bytes that this process read from and wrote to disks since it started."""

    read: int
    written: int


NO_DISK_COUNTERS = "the system does not count the bytes that a process reads and writes"


def disk_bytes() -> DiskBytes | None:
    """Bytes read and written so far, without those served from the system's memory; None if they are not counted."""
    try:
        counters = psutil.Process().io_counters()
    except (AttributeError, psutil.Error, OSError):  # macOS has no such counters
        return None
    return DiskBytes(int(counters.read_bytes), int(counters.write_bytes))


@dataclass(frozen=True)
class CpuTimes:
    """Processor times in seconds: of all cores since the system started, and of this process since it started.

    Attributes:
        total_s: Total time, idle time included.
        busy_s: Time used by any process, stolen time included.
        stolen_s: Time stolen by other virtual machines on the same host.
        own_s: Time used by this process.
    """

    total_s: float
    busy_s: float
    stolen_s: float
    own_s: float


@dataclass(frozen=True)
class Noise:
    """Load from other work during a measurement, as shares of all processor time.

    Attributes:
        stolen: Share stolen by other virtual machines on the same host.
        others: Share used by other processes.
    """

    stolen: float
    others: float


def cpu_times() -> CpuTimes:
    """The current processor times."""
    times = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    stolen = float(getattr(times, "steal", 0.0))
    guests = float(getattr(times, "guest", 0.0)) + float(
        getattr(times, "guest_nice", 0.0)
    )  # already part of user and nice
    total = float(sum(times)) - guests
    idle = float(times.idle) + float(getattr(times, "iowait", 0.0))
    return CpuTimes(total, total - idle, stolen, float(own.user + own.system))


def noise_between(before: CpuTimes, after: CpuTimes) -> Noise | None:
    """Load from others between two readings; None if the clocks (10 ms per tick) did not advance."""
    total = after.total_s - before.total_s
    if total <= 0:
        return None
    stolen = after.stolen_s - before.stolen_s
    others = (after.busy_s - before.busy_s) - stolen - (after.own_s - before.own_s)
    return Noise(stolen=_share(stolen / total), others=_share(others / total))


def _status_bytes(field: str) -> int | None:
    status = _PROC / "self" / "status"
    if not status.exists():
        return None
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _share(value: float) -> float:
    """Clamp a share to 0 to 1; ticks of different clocks may put it slightly outside."""
    return min(1.0, max(0.0, value))
