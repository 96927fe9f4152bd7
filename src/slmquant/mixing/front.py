"""The front of bytes, speed and divergence: mixtures of which none is better than another in all three."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from slmquant.errors import RefusedError
from slmquant.mixing.choose import Point, Room, solve
from slmquant.mixing.decode_costs import DecodeCosts

_BYTES = (1.0, 0.95, 0.9, 0.85)
"""Numbers of bytes, as shares of those asked for."""
_STEPS = 4
"""Times per token for each number of bytes: from that of the best mixture to that of the fastest."""


@dataclass(frozen=True)
class Speed:
    """How fast a file has to decode.

    Attributes:
        least: Fewest tokens per second.
        measure: Measures what types cost, which takes minutes.
    """

    least: float
    measure: Callable[[], DecodeCosts]


def timed(room: Room, numbers: Mapping[str, int], costs: DecodeCosts, least: float) -> Room:
    """The room for weights that also decode fast enough.

    Args:
        room: The room in bytes.
        numbers: Weight → how many of its numbers a token reads.
        costs: What types cost.
        least: Fewest tokens per second.
    """
    times = {
        name: {kind: costs.seconds[kind] * numbers[name] for kind in several} for name, several in room.sizes.items()
    }
    return replace(room, times=times, max_seconds=1 / least)


def front(losses: Mapping[str, Mapping[str, float]], room: Room) -> tuple[Point, ...]:
    """Mixtures of at most the room's bytes at several sizes and speeds, the largest and slowest first.

    Args:
        losses: Weight → type → predicted loss.
        room: Bytes and times of weights; its own limit of time is not kept.
    """
    fastest = sum(min(several.values()) for several in room.times.values())
    found: dict[tuple[float, ...], Point] = {}
    for share in _BYTES:
        smaller = replace(room, max_bytes=int(share * room.max_bytes), max_seconds=math.inf)
        best = _point(losses, smaller)
        if best is None:  # fewer bytes than the smallest file has
            break
        slowest = 1 / best.tokens_per_s
        limits = [slowest + (fastest - slowest) * step / _STEPS for step in range(1, _STEPS + 1)]
        for point in (best, *(_point(losses, replace(smaller, max_seconds=limit)) for limit in limits)):
            if point is not None:
                found[-point.file_bytes, point.tokens_per_s, point.divergence] = point
    return tuple(
        point for _, point in sorted(found.items()) if not any(point.is_beaten_by(other) for other in found.values())
    )


def _point(losses: Mapping[str, Mapping[str, float]], room: Room) -> Point | None:
    """The best mixture that fits; None if there is none."""
    try:
        solved = solve(losses, room)
    except RefusedError:
        return None
    types = {name: one.type for name, one in solved.chosen.items()}
    return Point(room.others + solved.bytes, 1 / solved.seconds, solved.loss, types)
