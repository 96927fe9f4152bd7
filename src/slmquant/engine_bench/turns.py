"""The schedule of rounds for `engine_bench.session`: order of jobs, and contexts that fit the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slmquant.engine_bench.requests import Point


def williams_design(jobs: int) -> list[list[int]]:
    """Orders of jobs in which each job is equally often in each position and directly after each other job.

    E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments", Australian
    Journal of Scientific Research A 2, 1949: as many orders as jobs if their number is even, twice as many if it is
    odd.
    """
    zigzag = [0]
    for step in range(1, jobs):
        zigzag.append((step + 1) // 2 if step % 2 else jobs - step // 2)
    orders = [[(place + shift) % jobs for place in zigzag] for shift in range(jobs)]
    return orders if jobs % 2 == 0 or jobs == 1 else orders + [order[::-1] for order in orders]


def turns(jobs: int, rounds: int, seed: int = 0) -> list[list[int]]:
    """The order of jobs in each round: repeated Williams designs, each with its orders shuffled.

    Exactly balanced if `rounds` is a multiple of the design's size (see `williams_design`); otherwise the last design
    is cut short.
    """
    rng = np.random.default_rng(seed)
    design = williams_design(jobs) if jobs else [[]]
    orders: list[list[int]] = []
    while len(orders) < rounds:
        orders += [design[row] for row in rng.permutation(len(design))]
    return orders[:rounds]


def fitted(points: Sequence[Point], context_limit: int | None) -> list[Point]:
    """Points shortened to the model's context limit.

    A point that is too long keeps its decoded tokens, at most half of the limit, and its context becomes the rest. If
    two points then have the same context, the one that decodes more tokens is kept.
    """
    by_context: dict[int, Point] = {}
    for point in points:
        shorter = point
        if context_limit is not None and point.tokens > context_limit:
            steps = min(point.steps, max(1, context_limit // 2))
            shorter = Point(min(point.context, context_limit - steps), steps)
        if shorter.tokens > 0 and shorter.steps >= by_context.get(shorter.context, shorter).steps:
            by_context[shorter.context] = shorter
    return list(by_context.values())
