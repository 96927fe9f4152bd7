"""What a ladder costs in time, memory and disk, told and checked before anything is made."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from slmquant.boundary import size_text
from slmquant.engine_bench.requests import Point
from slmquant.errors import RefusedError, SpaceError
from slmquant.ladder.rungs import RUNGS, WIDTHS, Rung

POINT = Point(512, 64)
"""What is timed: a prompt of 512 tokens, and 64 decoded after it."""
_MEMORY_OF_A_PARAMETER, _MEMORY_OF_LIBRARIES = 16, 1_000_000_000
"""Bytes: a model in float32 with its codes and its graph while it is written; three files side by side take less."""
_MADE_PER_S, _READ_PER_S, _FLOP_PER_S = 8e6, 6e9, 60e9
"""Parameters written in all widths, bytes read and operations done in a second, by one core of a server."""
_START_S = 40.0
"""Seconds that the processes of a size on an engine take to start and to measure the machine."""


@dataclass(frozen=True)
class Cost:
    """What a ladder costs, estimated.

    Attributes:
        seconds: Time of everything.
        memory_bytes: Most memory at a time.
        disk_bytes: Most of the disk at a time.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int


def cost_of(rungs: Sequence[Rung], engines: int, rounds: int) -> Cost:
    """The cost of measuring sizes on a number of engines."""
    largest = max(rung.parameters for rung in rungs)
    seconds = engines * sum(_seconds(rung, rounds) for rung in rungs)
    return Cost(seconds, _memory(largest), round(largest * sum(WIDTHS.values()) / 8))


def check_fits(rungs: Sequence[Rung]) -> None:
    """Refuse sizes that this machine cannot hold.

    Raises:
        RefusedError: They need more memory than is free; the message says which fit.
        SpaceError: The disk of temporary files has less space than they need.
    """
    free = psutil.virtual_memory().available
    largest = max(rungs, key=lambda rung: rung.parameters)
    if (needed := _memory(largest.parameters)) > free:
        fitting = [name for name, rung in RUNGS.items() if _memory(rung.parameters) <= free]
        remedy = f"use --sizes {','.join(fitting)}" if fitting else "free some memory"
        raise RefusedError(
            f"size {largest.name} takes about {size_text(needed)} of memory, and {size_text(free)} are free; {remedy}"
        )
    cost = cost_of(rungs, 1, 1)
    folder = tempfile.gettempdir()
    if (space := shutil.disk_usage(folder).free) < cost.disk_bytes:
        raise SpaceError(
            f"size {largest.name} takes {size_text(cost.disk_bytes)} of {folder}, and {size_text(space)} are free; set "
            "TMPDIR to a folder on another disk, or use smaller --sizes"
        )


def _memory(parameters: int) -> int:
    return parameters * _MEMORY_OF_A_PARAMETER + _MEMORY_OF_LIBRARIES


def _seconds(rung: Rung, rounds: int) -> float:
    read = sum(rung.parameters * bits / 8 for bits in WIDTHS.values())
    prompt = len(WIDTHS) * 2 * rung.linears * POINT.context
    passes = rounds + 1  # one to warm up
    return _START_S + rung.parameters / _MADE_PER_S + passes * (POINT.steps * read / _READ_PER_S + prompt / _FLOP_PER_S)
