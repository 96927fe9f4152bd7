"""What a cell would have cost alone, what it cost here, and in money."""

from __future__ import annotations

import pytest

from slmquant.analysis.costs import cells_sharing, cpu_s_here, price, users
from slmquant.store.record import Phase, Record
from slmquant.tracks.consumption import consumption_metrics
from tests.invented import record

CAPTURE = Phase(name="capture", seconds=30.0, cpu_s=60.0, shared=True)
OTHER = Phase(name="capture", seconds=30.0, cpu_s=61.0, shared=True)


def cell(method: str, capture: Phase | None, cpu_s: float = 10.0) -> Record:
    phases = [*([capture] if capture else []), Phase(name="quantize", seconds=6.0, cpu_s=cpu_s)]
    return record(method, "W4A16g64").model_copy(
        update={"phases": tuple(phases), "metrics": tuple(consumption_metrics(phases, None))}
    )


def test_a_shared_capture_is_divided_among_the_cells_that_used_it() -> None:
    cells = [cell("gptq", CAPTURE), cell("gptaq", CAPTURE), cell("awq", CAPTURE), cell("imatrix", OTHER)]
    among = users([*cells, cell("rtn", None)])

    assert [cells_sharing(each, among) for each in cells] == [3, 3, 3, 1]
    assert cpu_s_here(cells[0], among) == pytest.approx(10 + 60 / 3)
    assert cpu_s_here(cells[3], among) == pytest.approx(10 + 61)
    assert sum(cpu_s_here(each, among) or 0 for each in cells) == pytest.approx(4 * 10 + 60 + 61)


def test_a_cell_without_statistics_costs_the_same_everywhere() -> None:
    alone = cell("rtn", None)

    assert cells_sharing(alone, users([alone])) == 0 and cpu_s_here(alone, users([alone])) == 10.0


def test_what_was_not_measured_has_no_cost() -> None:
    bare = record("rtn", "W4A16g64").model_copy(update={"phases": (), "metrics": ()})

    assert cpu_s_here(bare, users([bare])) is None and price(bare, 0.12) is None


def test_money_is_wall_time_at_a_rate() -> None:
    assert price(cell("gptq", CAPTURE), 100.0) == pytest.approx(100 * 36 / 3600)
