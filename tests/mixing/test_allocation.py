"""The allocation is the best of all that fit, and what cannot fit is told."""

import itertools
import math
from random import Random

import pytest

from slmquant.errors import NumericalError, RefusedError
from slmquant.mixing.allocation import Candidate, allocate


def drawn(seed: int) -> tuple[dict[str, list[Candidate]], int, float]:
    """Up to five weights of up to four candidates, a number of bytes and a time per token."""
    random = Random(seed)
    candidates = {
        f"weight {place}": [
            Candidate(kind, random.randint(1, 10_000), random.random(), random.uniform(0, 0.01))
            for kind in random.sample(["Q4_0", "Q5_0", "Q6_K", "Q8_0"], random.randint(1, 4))
        ]
        for place in range(random.randint(1, 5))
    }
    return candidates, random.randint(1, 40_000), random.choice([math.inf, random.uniform(0.001, 0.04)])


def best(candidates: dict[str, list[Candidate]], max_bytes: int, max_seconds: float) -> float | None:
    """The least loss of all combinations that fit, one by one."""
    losses = [
        math.fsum(one.loss for one in combination)
        for combination in itertools.product(*candidates.values())
        if sum(one.bytes for one in combination) <= max_bytes and sum(one.seconds for one in combination) <= max_seconds
    ]
    return min(losses, default=None)


@pytest.mark.parametrize("seed", range(60))
def test_no_other_choice_is_better(seed: int) -> None:
    candidates, max_bytes, max_seconds = drawn(seed)
    expected = best(candidates, max_bytes, max_seconds)
    if expected is None:
        with pytest.raises(RefusedError, match=rf"{max_bytes} bytes|tokens/s are too many"):
            allocate(candidates, max_bytes, max_seconds)
        return
    found = allocate(candidates, max_bytes, max_seconds)

    assert found.optimal
    assert set(found.chosen) == set(candidates)
    assert found.bytes <= max_bytes
    assert found.seconds <= max_seconds * (1 + 1e-6)
    assert found.loss == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_budget_is_used_to_the_byte() -> None:
    candidates = {name: [Candidate("Q4_0", 100, 0.4), Candidate("Q8_0", 200, 0.1)] for name in ("a", "b")}

    assert allocate(candidates, 300).bytes == 300
    assert allocate(candidates, 299).bytes == 200


def test_the_smallest_file_is_told() -> None:
    with pytest.raises(RefusedError, match="take 150"):
        allocate({"a": [Candidate("Q4_0", 100, 0.4)], "b": [Candidate("Q4_0", 50, 0.4)]}, 149)


def test_the_fastest_speed_is_told() -> None:
    with pytest.raises(RefusedError, match=r"1000 tokens/s are too many: the fastest .* decode 500 tokens/s"):
        allocate({"a": [Candidate("Q4_0", 100, 0.4, 0.002)]}, 200, 0.001)


def test_small_and_fast_may_not_go_together() -> None:
    candidates = {"a": [Candidate("Q4_0", 100, 0.4, 0.002), Candidate("Q8_0", 200, 0.1, 0.001)]}

    with pytest.raises(RefusedError, match="at most 150 bytes and decode 1000 tokens/s"):
        allocate(candidates, 150, 0.001)
    assert allocate(candidates, 200, 0.001).chosen["a"].type == "Q8_0"


def test_a_loss_that_is_no_number_is_told_with_its_weight() -> None:
    with pytest.raises(NumericalError, match="'a' as Q4_0"):
        allocate({"a": [Candidate("Q4_0", 100, math.nan)]}, 149)
