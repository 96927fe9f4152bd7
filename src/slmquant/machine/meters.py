"""What the operating system says of a process and of its machine: resident memory, the work of others.

Readings of Linux are files of `/proc` and `/sys`. Where one is missing, what it would say is None, never 0.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")


def peak_rss_bytes() -> int:
    """Highest resident memory of this process so far, or since `forget_peak`."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> bool:
    """Let the peak begin anew from what is resident now; False where the system cannot."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def rss_bytes() -> int:
    """Resident memory of this process now, pages of mapped files included."""
    return int(psutil.Process().memory_info().rss)


def mapped_bytes(artifact: Path, smaps: Path = _PROC / "self" / "smaps") -> int | None:
    """Resident pages that map the file `artifact`, or files below it where it is a folder.

    They count as resident memory, but the system may drop and read them again at any time. None where the system
    does not say, or there is no such file.
    """
    if not smaps.exists() or not artifact.exists():
        return None
    here = artifact.resolve()
    resident, inside = 0, False
    for line in smaps.read_text(encoding="utf-8", errors="replace").splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # the head of a mapping: addresses, rights, offset, device, inode, path
            path = Path(line.split(maxsplit=5)[5]) if line.count("/") else None
            inside = path is not None and (path == here or here in path.parents)
        elif inside and first == "Rss:":
            resident += int(rest.split()[0]) * 1024
    return resident


def bytes_on_disk(artifact: Path) -> int | None:
    """What a file, or all files of a folder, take; None where there is neither."""
    if artifact.is_file():
        return artifact.stat().st_size
    return sum(f.stat().st_size for f in artifact.rglob("*") if f.is_file()) if artifact.is_dir() else None


@dataclass(frozen=True)
class CpuTimes:
    """Processor time since the system started, over all cores, and of this process since it did, in seconds.

    Attributes:
        total_s: All of it, idle time included.
        busy_s: What anybody used, or waited for because another machine on the same host had it.
        stolen_s: That waiting alone.
        own_s: What this process used.
    """

    total_s: float
    busy_s: float
    stolen_s: float
    own_s: float


@dataclass(frozen=True)
class Noise:
    """What the machine did besides the work that was measured, as shares of all its processor time.

    Attributes:
        stolen: Taken by other machines on the same host.
        others: Used by other processes.
    """

    stolen: float
    others: float


def cpu_times() -> CpuTimes:
    """The processor's clocks, now."""
    times = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    stolen = float(getattr(times, "steal", 0.0))
    guests = float(getattr(times, "guest", 0.0)) + float(getattr(times, "guest_nice", 0.0))  # in user and nice already
    total = float(sum(times)) - guests
    idle = float(times.idle) + float(getattr(times, "iowait", 0.0))
    return CpuTimes(total, total - idle, stolen, float(own.user + own.system))


def noise_between(before: CpuTimes, after: CpuTimes) -> Noise | None:
    """What others did between two readings; None where the clocks, of 10 ms a tick, did not move."""
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
    """A share of time; ticks of different clocks may put it a little out of its range."""
    return min(1.0, max(0.0, value))
