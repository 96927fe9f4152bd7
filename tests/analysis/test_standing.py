"""Cells that cannot be told apart are named together; accuracy is counted from chance."""

from __future__ import annotations

import pytest

from slmquant.analysis.chance import above_chance
from slmquant.analysis.intervals import wilson
from slmquant.analysis.standing import standings
from slmquant.report._columns import best, columns
from slmquant.report._sections import sections
from slmquant.report._words import notes
from slmquant.store.record import Metric, Record
from tests import invented

RECORDS = invented.benchmark()
ANSWERS = {record.cell_id: invented.items(record) for record in RECORDS}
IDS = {(record.spec.method, record.spec.scheme): record.cell_id for record in RECORDS}


def test_who_differs_from_full_precision_and_who_may() -> None:
    arc = standings(RECORDS, ANSWERS)[0]

    assert arc.task == invented.ARC
    assert IDS["rtn", "W4A8"] in arc.named("worse")
    assert {IDS["rtn", "W8A8"], IDS["gptq", "W4A16g64"]} <= set(arc.named("cannot tell"))
    assert arc.smallest_seen is not None and 0.1 < arc.smallest_seen < 0.2


def test_not_one_cell_is_equivalent_on_100_items() -> None:
    """A failure to reject is no finding: a loss of several points would not have been seen."""
    assert not any(standing.named("equivalent") for standing in standings(RECORDS, ANSWERS)[:2])


def test_the_correction_spans_cells_and_tasks() -> None:
    found = standings(RECORDS, ANSWERS)
    smallest = min(one.p_value for s in found for one in s.against_reference.values() if one.p_value is not None)
    corrected = min(
        one.p_corrected for s in found for one in s.against_reference.values() if one.p_corrected is not None
    )

    assert corrected == pytest.approx(27 * smallest)  # nine quantized cells on two tasks and a text


def test_the_best_cells_are_named_together_and_the_clearly_worse_are_not() -> None:
    arc = standings(RECORDS, ANSWERS)[0]

    assert arc.best[0] == IDS["smoothquant", "W8A8"]
    assert {IDS["rtn", "W8A8"], IDS["gptq", "W8A8"]} <= set(arc.best)
    assert IDS["rtn", "W4A8"] not in arc.best


def test_answers_make_the_test_sharper() -> None:
    blind, sharp = standings(RECORDS, {})[0], standings(RECORDS, ANSWERS)[0]

    assert set(sharp.named("cannot tell")) < set(blind.named("cannot tell"))
    assert all(one.flips is None for one in blind.against_reference.values())


def test_without_full_precision_there_is_still_a_best() -> None:
    found = standings(RECORDS[1:], ANSWERS)[0]

    assert not found.against_reference and found.best
    assert standings(RECORDS[:1], ANSWERS) == []


def test_accuracy_from_chance_is_moved_and_stretched_with_its_error() -> None:
    record = RECORDS[0]
    found, metric = above_chance(record, invented.ARC), record.metric("acc_norm", invented.ARC)

    assert found is not None and metric is not None and metric.stderr is not None
    assert found.value == pytest.approx((0.54 - 0.25) / 0.75)
    assert found.stderr == pytest.approx(metric.stderr / 0.75)
    assert found.interval == wilson(0.54, 100).rescaled(0.25, 0.75)
    assert found.value in found.interval


def test_worse_than_guessing_is_negative_and_without_chance_there_is_nothing() -> None:
    task = "x"
    guess = Metric(name="acc", value=0.2, unit="ratio", higher_is_better=True, task=task, n=50, stderr=None)
    chance = Metric(name="chance", value=0.25, unit="ratio", higher_is_better=None, task=task)
    cell = invented.record("rtn", "W2A16g64", (guess, chance))
    found = above_chance(cell, task)

    assert found is not None and found.value < 0 and found.interval is None
    assert above_chance(invented.record("rtn", "W2A16g64", (guess,)), task) is None


def with_windows(windows: int) -> list[Record]:
    def changed(m: Metric) -> Metric:
        return m.model_copy(update={"clusters": windows}) if m.task == invented.TEXT and m.stderr else m

    return [record.model_copy(update={"metrics": tuple(map(changed, record.metrics))}) for record in RECORDS]


def test_few_windows_of_a_text_are_not_judged_and_nothing_is_bold() -> None:
    """A minimum by two windows is no winner."""
    records = with_windows(2)
    found = {one.metric: one for one in standings(records, {})}
    section = sections(records)[0]

    assert set(found) == {"accuracy", "perplexity", "kl_mean"}
    assert {one.verdict for one in found["perplexity"].against_reference.values()} == {"cannot tell"}
    assert found["perplexity"].best == found["kl_mean"].best == ()
    assert not any(best(column, section) for column in columns(section) if column.title in ("ppl", "KL", "KL p99"))
    assert any("against full precision in perplexity: too few items to tell: all" in note for note in notes(section))


def test_the_choice_of_the_best_is_paid_for() -> None:
    """The best was picked by its score among nine: its p-values are corrected for all pairs."""
    found = standings(RECORDS, ANSWERS)
    pairs = 4 * 9 * 8 // 2  # two tasks, perplexity and divergence
    one = found[0].against_best[IDS["rtn", "W4A8"]]

    assert one.p_value is not None and one.p_corrected == pytest.approx(min(1.0, pairs * one.p_value))


def test_nothing_is_the_best_where_all_are_alike() -> None:
    cells = [record for record in RECORDS if record.spec.scheme in ("W16A16", "W8A8")]
    found = standings(cells, ANSWERS)[0]
    section = sections(cells, answers=ANSWERS)[0]

    assert found.best == ()
    assert not any(best(column, section) for column in columns(section) if column.task == invented.ARC)
    assert any("no quantized cell is significantly worse than the best" in note for note in notes(section))
