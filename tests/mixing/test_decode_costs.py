"""Decode costs are those of made-up files, and the front holds every mixture that no other beats."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from slmquant.mixing.choose import Point, Room
from slmquant.mixing.decode_costs import DecodeCosts, TimedFile, fitted, numbers_read
from slmquant.mixing.front import front, timed
from slmquant.model.structure import Relations

SECONDS = {"Q8_0": 5e-9, "IQ4_NL": 4e-9, "Q5_0": 9e-9, "Q6_K": 3e-9}
NUMBERS = {"embed": 3_000_000, "q": 400_000, "up": 1_000_000, "down": 1_000_000}
BYTES = {"Q8_0": 34, "IQ4_NL": 18, "Q5_0": 22, "Q6_K": 26}
COSTS = DecodeCosts(seconds=SECONDS, error=0.02, conditions="made up")


def file(types: dict[str, str], noise: float = 1.0) -> TimedFile:
    numbers: dict[str, int] = {}
    for name, kind in types.items():
        numbers[kind] = numbers.get(kind, 0) + NUMBERS[name]
    return TimedFile(numbers, noise * COSTS.predicted(numbers))


def pure(noise: float) -> list[TimedFile]:
    """A file for each type; rows of `up` do not fit Q6_K."""
    random = Random(1)
    return [
        file(
            {name: "Q8_0" if kind == "Q6_K" and name == "up" else kind for name in NUMBERS}, 1 + random.gauss(0, noise)
        )
        for kind in SECONDS
    ]


def test_costs_are_found_and_their_error_is_that_of_files_that_were_not_fitted() -> None:
    mixed = [file({"embed": "Q5_0", "q": "Q8_0", "up": "IQ4_NL", "down": "Q6_K"}, factor) for factor in (1.1, 1.0)]
    found = fitted(pure(0.0), mixed, "here")

    assert found.seconds == pytest.approx(SECONDS, rel=1e-4)
    assert found.error == pytest.approx(((1 / 1.1 - 1) ** 2 / 2) ** 0.5)


def test_noise_of_some_percent_gives_an_error_of_some_percent() -> None:
    mixed = [file(dict(zip(NUMBERS, kinds, strict=True))) for kinds in itertools.permutations(SECONDS)]
    found = fitted(pure(0.02), mixed, "here")

    assert all(cost >= 0 for cost in found.seconds.values())
    assert 0 < found.error < 0.05


def test_a_type_that_fits_few_weights_is_never_free() -> None:
    """Noise of 5 % is more than all that `q` in Q6_K changes."""
    rare = {**dict.fromkeys(NUMBERS, "Q8_0"), "q": "Q6_K"}
    found = fitted([file(dict.fromkeys(NUMBERS, "Q8_0")), file(rare, 0.8)], [file(rare)], "here")

    assert found.seconds["Q6_K"] >= found.seconds["Q8_0"] / 4.5


@pytest.mark.parametrize(("tied", "read"), [(True, 3_000_000), (False, 0)])
def test_an_embedding_is_read_only_as_head(tied: bool, read: int) -> None:
    relations = Relations(("q", "up", "down"), (), (), (), "embed", "lm_head", tied)

    assert numbers_read(NUMBERS, relations)["embed"] == read
    assert numbers_read(NUMBERS, relations)["q"] == 400_000


def room() -> Room:
    sizes = {name: {kind: count // 32 * BYTES[kind] for kind in BYTES} for name, count in NUMBERS.items()}
    return Room(sizes, 1000, 1000 + sum(several["Q6_K"] for several in sizes.values()))


def losses() -> dict[str, dict[str, float]]:
    random = Random(0)
    return {name: {kind: random.uniform(0.5, 1.5) * 10.0 ** (-BYTES[kind] / 8) for kind in BYTES} for name in NUMBERS}


def test_times_are_costs_times_numbers() -> None:
    found = timed(room(), NUMBERS, COSTS, 50.0)

    assert found.times["q"]["Q5_0"] == pytest.approx(400_000 * 9e-9)
    assert found.max_seconds == pytest.approx(0.02)
    assert not found.holds({"embed": "Q5_0", "q": "Q8_0", "up": "Q8_0", "down": "Q8_0"})  # 39 ms
    assert found.holds({"embed": "Q6_K", "q": "IQ4_NL", "up": "IQ4_NL", "down": "IQ4_NL"})  # 18.6 ms


def every(given: Room) -> list[Point]:
    """All mixtures that fit, one by one."""
    found = []
    for kinds in itertools.product(BYTES, repeat=len(NUMBERS)):
        types = dict(zip(NUMBERS, kinds, strict=True))
        if given.taken(types) <= given.bytes:
            loss = sum(losses()[name][kind] for name, kind in types.items())
            found.append(Point(given.others + given.taken(types), 1 / given.seconds(types), loss, types))
    return found


def test_no_mixture_beats_one_of_the_front() -> None:
    given = timed(room(), NUMBERS, COSTS, 50.0)
    found, others = front(losses(), given), every(given)

    assert len(found) >= 3
    assert [point.file_bytes for point in found] == sorted((point.file_bytes for point in found), reverse=True)
    for point in found:
        assert point.file_bytes <= given.max_bytes
        assert not any(point.is_beaten_by(other) for other in others)
    assert min(point.divergence for point in found) == pytest.approx(min(other.divergence for other in others))


def test_a_point_is_not_beaten_by_itself() -> None:
    point = Point(100, 10.0, 0.1, {})

    assert not point.is_beaten_by(point)
    assert point.is_beaten_by(Point(99, 10.0, 0.1, {}))
    assert not point.is_beaten_by(Point(99, 9.0, 0.1, {}))
