"""Cells that cannot be told apart are named together; accuracy is counted from chance."""

from __future__ import annotations

import pytest

from slmquant.analysis.chance import above_chance
from slmquant.analysis.intervals import wilson
from slmquant.analysis.standing import standings
from slmquant.report._sections import sections
from slmquant.report._words import notes
from slmquant.store.record import Metric
from tests import invented

RECORDS = invented.benchmark()
ANSWERS = {record.cell_id: invented.items(record) for record in RECORDS}
IDS = {(record.spec.method, record.spec.scheme): record.cell_id for record in RECORDS}


def test_who_cannot_be_told_apart_from_full_precision() -> None:
    arc = standings(RECORDS, ANSWERS)[0]

    assert arc.task == invented.ARC
    assert IDS["rtn", "W8A8"] in arc.indistinguishable and IDS["gptq", "W4A16g64"] in arc.indistinguishable
    assert IDS["rtn", "W4A8"] not in arc.indistinguishable
    assert arc.against_reference[IDS["rtn", "W4A8"]].verdict == "worse"


def test_the_correction_spans_cells_and_tasks() -> None:
    found = standings(RECORDS, ANSWERS)
    smallest = min(one.p_value for s in found for one in s.against_reference.values() if one.p_value is not None)
    corrected = min(
        one.p_corrected for s in found for one in s.against_reference.values() if one.p_corrected is not None
    )

    assert corrected == pytest.approx(18 * smallest)  # nine quantized cells on two tasks


def test_the_best_cells_are_named_together_and_the_clearly_worse_are_not() -> None:
    arc = standings(RECORDS, ANSWERS)[0]

    assert arc.best[0] == IDS["smoothquant", "W8A8"]
    assert {IDS["rtn", "W8A8"], IDS["gptq", "W8A8"]} <= set(arc.best)
    assert IDS["rtn", "W4A8"] not in arc.best


def test_answers_make_the_test_sharper() -> None:
    blind, sharp = standings(RECORDS, {})[0], standings(RECORDS, ANSWERS)[0]

    assert set(sharp.indistinguishable) < set(blind.indistinguishable)
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


@pytest.mark.parametrize(("windows", "judged"), [(7, False), (8, True)])
def test_few_windows_of_a_text_are_not_judged(windows: int, judged: bool) -> None:
    records = [
        record.model_copy(
            update={
                "metrics": tuple(
                    m.model_copy(update={"clusters": windows}) if m.task == invented.TEXT and m.stderr else m
                    for m in record.metrics
                )
            }
        )
        for record in RECORDS
    ]
    metrics = {one.metric for one in standings(records, {})}

    assert metrics == ({"accuracy", "perplexity", "kl_mean"} if judged else {"accuracy"})
    assert any("too little text" in note for note in notes(sections(records)[0])) == (not judged)
