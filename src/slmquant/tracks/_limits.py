"""What the machine itself can do: the roof that decoding and prefill are held against.

Decoding reads every weight once for a token, so memory bandwidth bounds it; prefill multiplies, so the rate of matrix
products does (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009).

*Deviations.* Bandwidth is that of reading alone, as decoding writes next to nothing, not that of the STREAM triad; and
the roof of products is the better of float32 and bfloat16 as torch multiplies them, not the processor's paper peak. An
engine that multiplies in 8-bit integers, or whose weights stay in the last cache, may exceed either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_READ_BYTES = 1 << 28
"""Of the block that is read: eight times a last cache of 32 MiB."""

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
    """

    threads: int
    read_bytes_per_s: float
    float32_flop_per_s: float
    bfloat16_flop_per_s: float

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
    block = torch.ones(_READ_BYTES // 4)
    flop = 2 * _PRODUCT_SIZE**3
    wide = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE, generator=torch.Generator().manual_seed(0))
    narrow = wide.bfloat16()
    return MachineLimits(
        threads=threads,
        read_bytes_per_s=_READ_BYTES / _best_s(block.sum, seconds),
        float32_flop_per_s=flop / _best_s(lambda: torch.mm(wide, wide), seconds),
        bfloat16_flop_per_s=flop / _best_s(lambda: torch.mm(narrow, narrow), seconds),
    )


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
