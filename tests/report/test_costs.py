"""Costs in reports: money only on request, shared work told apart, absences with their reasons."""

from __future__ import annotations

import io

from rich.console import Console

from slmquant.analysis.scores import DEFAULT_OPTIONS, ScoreOptions
from slmquant.report.page import render
from slmquant.report.terminal import print_report, record_report
from slmquant.store.record import Phase, Record
from slmquant.tracks.consumption import consumption_metrics
from tests import invented

CAPTURE = Phase(name="capture", seconds=300.0, cpu_s=600.0, shared=True)


def cells() -> list[Record]:
    """Two cells that share a capture, and one that needs none."""
    found = []
    for method, cpu_s in (("gptq", 40.0), ("smoothquant", 20.0), ("rtn", 10.0)):
        quantize = Phase(name="quantize", seconds=60.0, cpu_s=cpu_s, read_bytes=2_500_000, energy_j=1234.0)
        phases = [quantize] if method == "rtn" else [CAPTURE, quantize]
        record = invented.record(method, "W4A16g64")
        others = [metric for metric in record.metrics if not metric.name.startswith(("quantize_", "load_"))]
        metrics = (*others, *consumption_metrics(phases, None))
        found.append(record.model_copy(update={"phases": tuple(phases), "metrics": metrics}))
    return found


def printed(options: ScoreOptions = DEFAULT_OPTIONS) -> str:
    file = io.StringIO()
    print_report(cells(), Console(file=file, width=220), options)
    return file.getvalue()


def shown(record: Record, others: list[Record]) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(record_report(record, others))
    return file.getvalue()


def test_money_is_a_column_only_with_a_rate() -> None:
    assert " cost" not in printed()
    with_rate = printed(ScoreOptions(cost_per_hour=36.0))

    assert " cost" in with_rate
    row = next(line for line in with_rate.splitlines() if line.lstrip().startswith("gptq"))
    assert row.split()[-1] == "3.60"  # 360 seconds
    assert "cost" in render(cells(), ScoreOptions(cost_per_hour=36.0)) and ">3.60<" in render(
        cells(), ScoreOptions(cost_per_hour=36.0)
    )


def test_a_note_says_what_shared_work_saved() -> None:
    assert "what each cell would take alone, 1,260 for the 2 cells that share a capture" in printed()
    assert "here they took 660, with 1 capture in all" in printed()


def test_energy_is_a_column_where_it_was_measured_in_all_phases() -> None:
    row = next(line for line in printed().splitlines() if line.lstrip().startswith("rtn"))

    assert "energy J" in printed() and "1,234" in row


def test_a_cell_shows_bytes_sharing_and_reasons() -> None:
    gptq, smoothquant, rtn = cells()
    reason = {"energy_j": "no energy counter here"}
    bare = gptq.phases[1].model_copy(update={"energy_j": None, "absent": reason})
    gptq = gptq.model_copy(update={"phases": (CAPTURE, bare)})
    text = shown(gptq, [gptq, smoothquant, rtn])

    assert "read MB" in text and "2.5" in text and "device MB" not in text
    assert "capture was shared by 2 cells of this store: alone, this cell would take 640.00 CPU s" in text
    assert "here it took 340.00, with 300.00 for its part" in text
    assert "energy_j not measured: no energy counter here" in text
    assert "shared by" not in shown(rtn, [gptq, rtn])
