"""Scores have intervals that hold what the score would be on all items, and name no winner by noise."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from slmquant.analysis.score_intervals import draw_scores, infer_interval
from slmquant.analysis.score_table import score_table
from slmquant.analysis.scores import DEFAULT_OPTIONS, slmq_infer
from slmquant.report._columns import best, columns
from slmquant.report._sections import sections
from slmquant.store.record import ItemOutcome, Record
from tests import invented
from tests.narrowed import present

METHODS = (("none", "W16A16"), ("rtn", "W4A16g64"), ("gptq", "W4A16g64"), ("smoothquant", "W4A8"))


def measured(
    shares: tuple[float, ...], losses: tuple[float, ...], items: int, windows: int, seed: int
) -> tuple[list[Record], dict[str, list[ItemOutcome]]]:
    """Cells that find the same items hard and the same windows surprising."""
    draws = np.random.default_rng(seed)
    hard = {task: draws.normal(size=items) for task in (invented.ARC, invented.HELLASWAG)}
    text = draws.normal(0, 0.3, size=windows)
    records, answers = [], {}
    for (method, scheme), share, loss in zip(METHODS, shares, losses, strict=False):
        kept: list[ItemOutcome] = []
        accuracies: list[float] = []
        limit = math.sqrt(1.25) * statistics.NormalDist().inv_cdf(share)
        for task, of_task in hard.items():
            right = (of_task + draws.normal(0, 0.5, size=items) < limit).astype(float)
            accuracies.append(float(right.mean()))
            kept += [ItemOutcome(task=task, item=str(i), values={"acc_norm": float(x)}) for i, x in enumerate(right)]
        nll = 3 + loss + text + draws.normal(0, 0.02, size=windows)
        kept += [ItemOutcome(task=invented.TEXT, item=str(i), values={"nll_mean": x}) for i, x in enumerate(nll)]
        kl = None if method == "none" else 0.1
        record = invented.ok(method, scheme, 100, math.exp(nll.mean()), kl, accuracies[0], accuracies[1], 2, 800)
        records.append(record)
        answers[record.cell_id] = kept
    return records, answers


def test_the_interval_of_a_score_holds_what_all_items_would_give() -> None:
    """Full precision gets 60 % right and the cell 54 %; its loss is 0.1 higher: sqrt((2 · 0.9² + e^-0.2) / 3)."""
    truth = 100 * math.sqrt((2 * 0.9**2 + math.exp(-0.2)) / 3)
    held = []
    for seed in range(120):
        records, answers = measured((0.6, 0.54), (0.0, 0.1), 100, 8, seed)
        perf, _ = draw_scores(records, answers, DEFAULT_OPTIONS)
        interval = perf.intervals[records[1].cell_id]
        value = score_table(records)[1].perf.value
        assert value is not None and value in interval
        held.append(truth in interval)

    assert statistics.fmean(held) >= 0.89


def test_no_score_is_bold_where_cells_are_alike() -> None:
    """The demo: no two methods of a scheme differ, and one was bold."""
    bold = 0
    for seed in range(20):
        records, answers = measured((0.6, 0.55, 0.55, 0.55), (0.0, 0.1, 0.1, 0.1), 60, 8, seed)
        section = sections(records, answers=answers)[0]
        bold += any(best(column, section) for column in columns(section) if column.title.startswith("perf"))

    assert bold <= 4  # two scores of 5 % each, and two standard errors


def test_what_is_clearly_better_is_bold_and_every_score_shows_its_interval() -> None:
    records, answers = measured((0.6, 0.35, 0.59, 0.35), (0.0, 0.9, 0.02, 0.9), 400, 12, 0)
    section = sections(records, answers=answers)[0]
    perf = next(column for column in columns(section) if column.title == "perf")
    readings = [perf.read(cell) for cell in section.quantized]

    assert best(perf, section) == {records[2].cell_id}
    assert all(reading is not None and reading.interval for reading in readings)


def test_without_answers_there_is_no_interval() -> None:
    records, _ = measured((0.6, 0.54), (0.0, 0.1), 50, 8, 0)

    assert draw_scores(records, {}, DEFAULT_OPTIONS)[0].intervals == {}
    with pytest.raises(KeyError):
        draw_scores(records, {}, DEFAULT_OPTIONS)[0].intervals[records[1].cell_id]


def test_infer_has_the_interval_of_its_paired_rounds() -> None:
    draws, held = np.random.default_rng(3), 0
    truth = 100 * math.sqrt((1.5**2 + 2.0**2 + 4.0**2) / 3)
    for _ in range(200):
        ratios = 1.5 * np.exp(draws.normal(0, 0.05, size=10))
        score = slmq_infer([2.0], [float(np.median(ratios))], [4.0])
        rounds = [
            ItemOutcome(task="engine@512", item=str(i), values={"decode_speedup": float(x)})
            for i, x in enumerate(ratios)
        ]
        interval = infer_interval(score, rounds)
        assert interval is not None and present(score.value) in interval
        assert infer_interval(score, rounds[:3]) is None and infer_interval(score, []) is None
        held += truth in interval

    assert held / 200 > 0.9
