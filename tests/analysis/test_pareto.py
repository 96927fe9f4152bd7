"""The Pareto set does not depend on order, keeps ties, and counts what it leaves out."""

from __future__ import annotations

import random

from slmquant.analysis.pareto import Point, pareto, pareto_of
from tests import invented


def brute_force(points: list[Point]) -> set[str]:
    return {p.key for p in points if not any(q.dominates(p) for q in points)}


def test_shuffled_points_give_the_same_front() -> None:
    draw = random.Random(0)
    points = [Point(str(i), draw.randint(1, 30), draw.randint(1, 30)) for i in range(80)]
    front = pareto(points)

    assert {member.key for member in front.members} == brute_force(points)
    for _ in range(5):
        draw.shuffle(points)
        assert pareto(points) == front


def test_equal_points_are_both_kept() -> None:
    front = pareto([Point("a", 1, 1), Point("b", 1, 1), Point("c", 1, 2)])

    assert [member.key for member in front.members] == ["a", "b"]
    assert front.dominated_by == {"c": ("a", "b")}


def test_cells_without_a_value_are_excluded_with_the_reason() -> None:
    records = invented.benchmark()
    by_label = {(r.spec.method, r.spec.scheme): r.cell_id for r in records}
    front = pareto_of(records, "kl_mean", invented.TEXT)

    assert len(front.members) + len(front.dominated_by) + len(front.excluded) == len(records)
    assert front.excluded[by_label["none", "W16A16"]] == "no kl_mean"
    assert front.excluded[by_label["rtn", "W3A16g64"]] == "the cell is out of memory"
    assert [m.key for m in front.members] == [
        by_label[label] for label in (("gptq", "W3A16g64"), ("gptq", "W4A8"), ("gptq", "W4A16g64"), ("gptq", "W8A8"))
    ] + [by_label["smoothquant", "W8A8"]]
    assert by_label["gptq", "W4A16g64"] in front.dominated_by[by_label["rtn", "W4A16g64"]]
