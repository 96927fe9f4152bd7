"""What stopping early would have come to, from answers that were kept."""

from __future__ import annotations

import pytest

from slmquant.analysis.separation import EarlyStop, _lot, early_stops
from slmquant.store.record import ItemOutcome, TaskSpec
from slmquant.tasks.common.order import items_asked


def outcomes(task: str, values: list[float], metric: str = "acc") -> list[ItemOutcome]:
    return [ItemOutcome(task=task, item=str(i), values={metric: value}) for i, value in enumerate(values)]


def test_clear_and_unclear_tasks_are_told() -> None:
    a = outcomes("piqa:400", [1.0] * 400) + outcomes("arc_easy@0", [1.0, 0.0] * 60)
    b = outcomes("piqa:400", [0.0, 1.0] * 200) + outcomes("arc_easy@0", [1.0, 0.0] * 60)
    clear, unclear = early_stops(a, b)

    assert (clear.needed, clear.available, clear.better) == (50, 400, 0)
    assert str(clear) == "piqa:400: A would have been shown to be better in acc after 50 of 400 items"
    assert unclear == EarlyStop("arc_easy@0", "acc", 120, 120, None)
    assert str(unclear) == "arc_easy@0: acc does not separate A and B after all 120 items"


def test_only_items_that_both_answered_rightly_or_wrongly_count() -> None:
    texts = outcomes("wikitext2:3", [2.5, 2.6, 2.4], "nll_mean")
    partial = outcomes("truthfulqa_mc2", [0.3, 0.9])

    assert early_stops(texts + partial, texts + partial) == []
    assert early_stops(outcomes("piqa", [1.0] * 80), outcomes("piqa", [0.0] * 30))[0].available == 30


def test_the_metric_is_the_one_that_stands_for_the_task() -> None:
    both = [ItemOutcome(task="arc", item="0", values={"acc": 1.0, "acc_norm": 0.0})]

    assert early_stops(both, both)[0].metric == "acc_norm"


@pytest.mark.parametrize(
    ("task", "parts"), [("piqa", {"piqa": 40}), ("mmlu", {"mmlu_anatomy": 20, "mmlu_virology": 20})]
)
def test_kept_answers_are_taken_in_the_order_in_which_bench_asks(task: str, parts: dict[str, int]) -> None:
    asked = items_asked(parts, TaskSpec(name=task, order_seed=0))
    names = [str(index) if part == task else f"{part}/{index}" for part, index in asked]

    assert sorted(names, key=lambda item: _lot(task, item)) == names
    assert names != sorted(names)
