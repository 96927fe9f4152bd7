"""Who is measured when, and at which contexts: the schedule of rounds of `engine_bench.session`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slmquant.engine_bench.requests import Point


def williams_design(jobs: int) -> list[list[int]]:
    """Orders of `jobs` in which each stands equally often in each place and directly after each other one.

    E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments", Australian
    Journal of Scientific Research A 2, 1949: as many orders as jobs where their number is even, twice as many where it
    is odd.
    """
    zigzag = [0]
    for step in range(1, jobs):
        zigzag.append((step + 1) // 2 if step % 2 else jobs - step // 2)
    orders = [[(place + shift) % jobs for place in zigzag] for shift in range(jobs)]
    return orders if jobs % 2 == 0 or jobs == 1 else orders + [order[::-1] for order in orders]


def turns(jobs: int, rounds: int, seed: int = 0) -> list[list[int]]:
    """The order of jobs in each round: whole Williams designs, the orders of each drawn at random.

    Balanced exactly where `rounds` is a multiple of the design's size (see `williams_design`), else but for the last
    design, of which some orders are left out.
    """
    rng = np.random.default_rng(seed)
    design = williams_design(jobs) if jobs else [[]]
    found: list[list[int]] = []
    while len(found) < rounds:
        found += [design[row] for row in rng.permutation(len(design))]
    return found[:rounds]


def fitted(points: Sequence[Point], context_limit: int | None) -> list[Point]:
    """The points as far as a model of so many tokens of context takes them.

    A point that is too long keeps its decoded tokens, or half of the limit where they are more, and gets what is left
    as its context. Of two points that then have one context the one that decodes more is kept.
    """
    found: dict[int, Point] = {}
    for point in points:
        shorter = point
        if context_limit is not None and point.tokens > context_limit:
            steps = min(point.steps, max(1, context_limit // 2))
            shorter = Point(min(point.context, context_limit - steps), steps)
        if shorter.tokens > 0 and shorter.steps >= found.get(shorter.context, shorter).steps:
            found[shorter.context] = shorter
    return list(found.values())
