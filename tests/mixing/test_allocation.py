"""The allocation is the best of all that fit, and what cannot fit is told."""

import itertools
import math
from random import Random

import pytest

from slmquant.errors import NumericalError, RefusedError
from slmquant.mixing.allocation import Candidate, allocate


def drawn(seed: int) -> tuple[dict[str, list[Candidate]], int, float]:
    """Up to five weights of up to four candidates, a number of bytes and a price of time."""
    random = Random(seed)
    candidates = {
        f"weight {place}": [
            Candidate(kind, random.randint(1, 10_000), random.random(), random.uniform(0, 0.01))
            for kind in random.sample(["Q4_0", "Q5_0", "Q6_K", "Q8_0"], random.randint(1, 4))
        ]
        for place in range(random.randint(1, 5))
    }
    return candidates, random.randint(1, 40_000), random.choice([0.0, 30.0])


def best(candidates: dict[str, list[Candidate]], max_bytes: int, price: float) -> float | None:
    """The least cost of all combinations that fit, one by one."""
    costs = [
        math.fsum(one.loss + price * one.seconds for one in combination)
        for combination in itertools.product(*candidates.values())
        if sum(one.bytes for one in combination) <= max_bytes
    ]
    return min(costs, default=None)


@pytest.mark.parametrize("seed", range(60))
def test_no_other_choice_is_better(seed: int) -> None:
    candidates, max_bytes, price = drawn(seed)
    expected = best(candidates, max_bytes, price)
    if expected is None:
        with pytest.raises(RefusedError, match=rf"{max_bytes} bytes are too few"):
            allocate(candidates, max_bytes, price)
        return
    found = allocate(candidates, max_bytes, price)

    assert found.optimal
    assert set(found.chosen) == set(candidates)
    assert found.bytes <= max_bytes
    assert found.loss + price * found.seconds == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_budget_is_used_to_the_byte() -> None:
    candidates = {name: [Candidate("Q4_0", 100, 0.4), Candidate("Q8_0", 200, 0.1)] for name in ("a", "b")}

    assert allocate(candidates, 300).bytes == 300
    assert allocate(candidates, 299).bytes == 200


def test_the_smallest_file_is_told() -> None:
    with pytest.raises(RefusedError, match="take 150"):
        allocate({"a": [Candidate("Q4_0", 100, 0.4)], "b": [Candidate("Q4_0", 50, 0.4)]}, 149)


def test_a_loss_that_is_no_number_is_told_with_its_weight() -> None:
    with pytest.raises(NumericalError, match="'a' as Q4_0"):
        allocate({"a": [Candidate("Q4_0", 100, math.nan)]}, 149)
