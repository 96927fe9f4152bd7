"""What this machine can do: the yardstick of the benchmarks beside this file."""

from __future__ import annotations

import time

import torch


def product_rate(size: int = 2048, seconds: float = 2.0) -> float:
    """Operations per second of a square bfloat16 product."""
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    torch.mm(a, b)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(a, b)
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - started)
