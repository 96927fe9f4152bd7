"""What the machine itself can do: the roof that decoding and prefill are held against.

Decoding reads every weight once for a token, so memory bandwidth bounds it; prefill multiplies, so the rate of matrix
products does (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009).

*Deviations.* Bandwidth is that of reading alone, as decoding writes next to nothing, not that of the STREAM triad; and
the roof of products is the better of float32 and bfloat16 as torch multiplies them, not the processor's paper peak. An
engine that multiplies in 8-bit integers, or whose weights stay in the last cache, may exceed either.
As with STREAM, what is read is four times as large as the last-level caches together, so that they cannot hold it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_CACHES = 4
"""How many times as large as the last-level caches the block is that is read."""
_UNKNOWN_CACHE = 1 << 26
"""What they are taken to hold where the system does not say."""
_MEMORY_SHARE = 0.25
"""Of the memory that is free the block takes at most so much."""
_CPUS = Path("/sys/devices/system/cpu")

_PRODUCT_SIZE = 1024
"""Rows and columns of the matrices: as wide as small models are."""


@dataclass(frozen=True)
class MachineLimits:
    """Rates that this machine reached, the best of several tries each.

    Attributes:
        threads: With how many threads.
        read_bytes_per_s: Reading memory.
        float32_flop_per_s: Square products in float32, an addition and a multiplication counted as two.
        bfloat16_flop_per_s: The same in bfloat16.
        block_bytes: How large the block was that was read; None where nobody said.
        cache_bytes: What the last-level caches hold; None where the system does not say.
    """

    threads: int
    read_bytes_per_s: float
    float32_flop_per_s: float
    bfloat16_flop_per_s: float
    block_bytes: int | None = None
    cache_bytes: int | None = None

    @property
    def reading(self) -> str:
        """What was read to find the bandwidth, as a protocol says it."""
        if self.block_bytes is None:
            return "read from memory"
        block = f"read from a block of {self.block_bytes >> 20} MiB"
        if self.cache_bytes is None:
            return f"{block}, the system does not say what its caches hold"
        return f"{block}, {self.block_bytes / self.cache_bytes:.1f} times the last-level caches"

    @property
    def flop_per_s(self) -> float:
        """The better of the two."""
        return max(self.float32_flop_per_s, self.bfloat16_flop_per_s)


def measure_limits(threads: int, seconds: float = 1.0) -> MachineLimits:
    """Try the machine for about `seconds` on each of the three.

    The best try counts: a limit is what the machine can do, and whatever disturbs it makes it look lower.
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
    """Bytes of all caches of the highest level, each counted once whoever shares it; None where Linux does not say."""
    found: dict[tuple[int, str], int] = {}
    for index in cpus.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, size, shared = (
                (index / name).read_text(encoding="utf-8").strip() for name in ("level", "size", "shared_cpu_list")
            )
            found[int(level), shared] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1:], 0)
        except (OSError, ValueError):  # a virtual machine may tell a part of it
            continue
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest) or None


def block_bytes(caches: int | None, available: int) -> int:
    """How large a block is read: four times the last-level caches, as far as memory allows, in whole MiB."""
    wanted = _CACHES * (_UNKNOWN_CACHE if caches is None else caches)
    return max(1, min(wanted, int(available * _MEMORY_SHARE)) >> 20) << 20


def _best_s(work: Callable[[], object], seconds: float) -> float:
    """Time of the fastest of as many tries as fit, three at least, after one that does not count."""
    work()
    tries: list[float] = []
    until = time.perf_counter() + seconds
    while len(tries) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        tries.append(time.perf_counter() - started)
    return min(tries)
