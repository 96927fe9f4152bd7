"""Rounds are balanced, and points fit the model."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from slmquant.engine_bench.jobs import Settings, cell_settings, quick_settings
from slmquant.engine_bench.requests import Point
from slmquant.engine_bench.turns import fitted, turns, williams_design


@pytest.mark.parametrize("jobs", range(1, 10))
def test_every_job_stands_as_often_in_each_place_and_after_each_other(jobs: int) -> None:
    design = williams_design(jobs)

    assert all(sorted(order) == list(range(jobs)) for order in design)
    places = Counter((job, place) for order in design for place, job in enumerate(order))
    followers = Counter(pair for order in design for pair in pairwise(order))
    assert len(places) == jobs**2 and len(set(places.values())) == 1
    assert len(followers) == jobs * (jobs - 1) and len(set(followers.values())) <= 1


@pytest.mark.parametrize("jobs", [2, 3, 4, 5])
def test_who_runs_before_whom_changes_within_ten_rounds(jobs: int) -> None:
    rounds = turns(jobs, 10)

    assert len(rounds) == 10 and rounds == turns(jobs, 10) != turns(jobs, 10, seed=1)
    before = Counter((a, b) for order in rounds for place, a in enumerate(order) for b in order[place + 1 :])
    assert all(2 <= before[a, b] <= 8 for a in range(jobs) for b in range(jobs) if a != b)
    after = Counter(pair for order in rounds for pair in pairwise(order))
    assert max(after.values()) - min(after[a, b] for a in range(jobs) for b in range(jobs) if a != b) <= 3


def test_no_jobs_have_no_order() -> None:
    assert turns(0, 3) == [[], [], []]


def test_ten_rounds_of_sixty_four_tokens_are_timed_unless_a_quick_look_is_asked_for() -> None:
    for settings in (Settings(), cell_settings()):
        assert settings.rounds >= 10
        assert all(point.steps in (0, 64) for point in settings.points)
        assert Point(512, 64) in settings.points
    assert quick_settings().rounds < 10


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, [(0, 64), (128, 0), (512, 64), (2048, 64)]),
        (2112, [(0, 64), (128, 0), (512, 64), (2048, 64)]),
        (2048, [(0, 64), (128, 0), (512, 64), (1984, 64)]),
        (512, [(0, 64), (128, 0), (448, 64)]),
        (256, [(0, 64), (128, 0), (192, 64)]),
        (192, [(0, 64), (128, 64)]),
        (32, [(0, 16), (32, 0), (16, 16)]),
        (2, [(0, 1), (2, 0), (1, 1)]),
    ],
)
def test_lengths_follow_what_the_model_takes(limit: int | None, expected: list[tuple[int, int]]) -> None:
    points = fitted(Settings().points, limit)

    assert [(point.context, point.steps) for point in points] == expected
