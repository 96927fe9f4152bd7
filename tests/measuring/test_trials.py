"""Further candidates are measured on the very windows, and calibrated on the very text, of those that there are."""

from __future__ import annotations

from pathlib import Path

from slmquant.measuring.trials import texts_here
from slmquant.recommendation.evidence import Evidence, gather
from slmquant.store.record import TaskSpec
from tests.recommendation import simulated
from tests.recommendation.simulated import Cell, cell, divergences, reference


def evidence_of(cells: list[Cell]) -> Evidence:
    return gather([record for record, _ in cells], {r.cell_id: i for r, i in cells}, simulated.MODEL, None)


def test_texts_are_those_of_most_cells_and_of_several_the_fewest_windows() -> None:
    cells = [reference(), cell("rtn", "W4A16", divergences(1.0, 4), 1, task="wikitext2:4")]
    cells.append(cell("gptq", "W4A16", divergences(0.5, 4), 1, task="wikitext2:4"))
    cells.append(cell("gptq", "W4A16", divergences(0.5, 16), 1, task="wikitext2:16", first=20))

    assert texts_here(evidence_of(cells), None, 8) == [TaskSpec(name="wikitext2", limit=4)]
    assert texts_here(evidence_of(cells[2:]), None, 8) == [TaskSpec(name="wikitext2", limit=4)]


def test_without_cells_they_are_the_texts_that_are_here(data: Path) -> None:
    texts = texts_here(Evidence("", None, ()), data, 4)

    assert texts[0] == TaskSpec(name="wikitext2", limit=4)
    assert len(texts) <= 2
