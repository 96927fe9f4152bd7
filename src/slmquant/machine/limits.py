"""The machine's performance limits: the roofline for decoding and prefill.

Decoding reads every weight once for a token, so memory bandwidth bounds it; prefill multiplies, so the rate of matrix
products bounds it (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009).

*Deviations.* Bandwidth is measured for reading alone, as decoding writes next to nothing, instead of the STREAM triad.
The limit of products is the better of float32 and bfloat16 as torch multiplies them, not the processor's theoretical
peak. An engine that multiplies in 8-bit integers, or whose weights stay in the last-level cache, may exceed these
limits. As with STREAM, the block that is read is four times as large as all last-level caches together, so that they
cannot hold it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_CACHES = 4
"""Size of the block that is read, in multiples of the last-level caches."""
_UNKNOWN_CACHE = 1 << 26
"""Assumed size of the last-level caches if the system does not report it."""
_MEMORY_SHARE = 0.25
"""Maximum size of the block, as a share of free memory."""
_CPUS = Path("/sys/devices/system/cpu")

_PRODUCT_SIZE = 1024
"""Rows and columns of the matrices, similar to the width of small models."""


@dataclass(frozen=True)
class MachineLimits:
    """Measured rates of this machine, each the best of several tries.

    Attributes:
        threads: Number of threads.
        read_bytes_per_s: Bandwidth of reading memory.
        float32_flop_per_s: Rate of float32 matrix products; a multiplication and an addition count as two.
        bfloat16_flop_per_s: Rate of bfloat16 matrix products.
        block_bytes: Size of the block that was read; None if not recorded.
        cache_bytes: Size of the last-level caches; None if the system does not report it.
    """

    threads: int
    read_bytes_per_s: float
    float32_flop_per_s: float
    bfloat16_flop_per_s: float
    block_bytes: int | None = None
    cache_bytes: int | None = None

    @property
    def reading(self) -> str:
        """How the bandwidth was measured, for protocols."""
        if self.block_bytes is None:
            return "read from memory"
        block = f"read from a block of {self.block_bytes >> 20} MiB"
        if self.cache_bytes is None:
            return f"{block}, the system does not say what its caches hold"
        return f"{block}, {self.block_bytes / self.cache_bytes:.1f} times the last-level caches"

    @property
    def flop_per_s(self) -> float:
        """The better rate of float32 and bfloat16 products."""
        return max(self.float32_flop_per_s, self.bfloat16_flop_per_s)


def measure_limits(threads: int, seconds: float = 1.0) -> MachineLimits:
    """Measure the three rates for about `seconds` each.

    The best try counts, because any disturbance only lowers the measured rate.
    """
    import torch

    torch.set_num_threads(threads)
    caches = last_caches()
    size = block_bytes(caches, psutil.virtual_memory().available)
    block = torch.ones(size // 4)
    flop = 2 * _PRODUCT_SIZE**3
    wide = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE, generator=torch.Generator().manual_seed(0))
    narrow = wide.bfloat16()
    return MachineLimits(
        threads=threads,
        read_bytes_per_s=size / _best_s(block.sum, seconds),
        float32_flop_per_s=flop / _best_s(lambda: torch.mm(wide, wide), seconds),
        bfloat16_flop_per_s=flop / _best_s(lambda: torch.mm(narrow, narrow), seconds),
        block_bytes=size,
        cache_bytes=caches,
    )


def last_caches(cpus: Path = _CPUS) -> int | None:
    """Total size of the last-level caches, shared ones counted once; None if Linux does not report it."""
    sizes: dict[tuple[int, str], int] = {}
    for index in cpus.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, size, shared = (
                (index / name).read_text(encoding="utf-8").strip() for name in ("level", "size", "shared_cpu_list")
            )
            sizes[int(level), shared] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1:], 0)
        except (OSError, ValueError):  # virtual machines may report only a part
            continue
    highest = max((level for level, _ in sizes), default=0)
    return sum(size for (level, _), size in sizes.items() if level == highest) or None


def block_bytes(caches: int | None, available: int) -> int:
    """Size of the block to read: four times the last-level caches if memory allows, in whole MiB."""
    size = _CACHES * (_UNKNOWN_CACHE if caches is None else caches)
    return max(1, min(size, int(available * _MEMORY_SHARE)) >> 20) << 20


def _best_s(work: Callable[[], object], seconds: float) -> float:
    """Duration of the fastest try, of at least three after a warm-up; tries go on for `seconds`."""
    work()
    tries: list[float] = []
    until = time.perf_counter() + seconds
    while len(tries) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        tries.append(time.perf_counter() - started)
    return min(tries)
