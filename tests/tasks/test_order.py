"""A random order is shared by all cells, whole, and the same however much of it is asked."""

from __future__ import annotations

import pytest

from slmquant.errors import SlmquantError
from slmquant.store.record import CellSpec, TaskSpec, task_name
from slmquant.tasks import parse
from slmquant.tasks.common.order import items_asked

SIZES = {"anatomy": 30, "virology": 20}
RANDOM = TaskSpec(name="mmlu", order_seed=0)


def test_without_a_seed_subtasks_take_turns() -> None:
    asked = items_asked(SIZES, TaskSpec(name="mmlu"))

    assert asked[:3] == [("anatomy", 0), ("virology", 0), ("anatomy", 1)]
    assert asked[-1] == ("anatomy", 29)


def test_a_random_order_is_a_permutation_that_its_seed_and_task_decide() -> None:
    asked = items_asked(SIZES, RANDOM)

    assert sorted(asked) == [(name, index) for name, size in SIZES.items() for index in range(size)]
    assert asked == items_asked(SIZES, TaskSpec(name="mmlu", order_seed=0, limit=5))
    assert asked != items_asked(SIZES, TaskSpec(name="mmlu", order_seed=1))
    assert items_asked({"t": 30}, TaskSpec(name="a", order_seed=0)) != items_asked(
        {"t": 30}, TaskSpec(name="b", order_seed=0)
    )


def test_a_random_order_never_changes() -> None:
    """Stored answers are paired by it: a change would need a new metric version."""
    assert [index for _, index in items_asked({"piqa": 8}, TaskSpec(name="piqa", order_seed=0))] == ORDER_OF_8


ORDER_OF_8 = [1, 0, 3, 6, 5, 4, 7, 2]


@pytest.mark.parametrize("text", ["piqa@0", "piqa:400@7", "piqa@0~0.95", "piqa:400@1~0.9"])
def test_an_order_reads_back_as_it_is_written(text: str) -> None:
    assert str(parse(text)) == text
    assert task_name(text) == "piqa"


@pytest.mark.parametrize("text", ["piqa@", "piqa@x", "piqa@0~", "piqa@0~95", "piqa@0~0.5", "piqa:400@0~high"])
def test_an_unreadable_order_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(SlmquantError, match="write 'piqa:100@0"):
        parse(text)


def test_stopping_early_needs_a_random_order() -> None:
    with pytest.raises(ValueError, match="needs a random item order"):
        TaskSpec(name="piqa", until_separated=0.95)


def test_the_ids_of_ordinary_cells_stay_what_they_were() -> None:
    spec = CellSpec(model="m", model_sha256="0" * 64, method="rtn", scheme="W8A8", tasks=(TaskSpec(name="piqa"),))

    assert spec.cell_id == ID_BEFORE_ORDERS
    assert spec.model_copy(update={"tasks": (TaskSpec(name="piqa", order_seed=0),)}).cell_id != ID_BEFORE_ORDERS


ID_BEFORE_ORDERS = "71a2660eeabb90b1"
