"""The phases of a cell: what each cost, and what could not be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from slmquant.analysis.costs import cells_sharing, cpu_s_here, shared_capture, users
from slmquant.boundary import printable
from slmquant.report._columns import ABSENT, BYTES_PER_MB, significant
from slmquant.store.record import Phase, Record


def _megabytes(count: int | None, digits: int = 0) -> str | None:
    return None if count is None else f"{count / BYTES_PER_MB:,.{digits}f}"


_COLUMNS: tuple[tuple[str, Callable[[Phase], str | None]], ...] = (
    ("seconds", lambda phase: f"{phase.seconds:.2f}"),
    ("CPU s", lambda phase: None if phase.cpu_s is None else f"{phase.cpu_s:.2f}"),
    ("added MB", lambda phase: _megabytes(phase.added_rss_bytes)),
    ("peak MB", lambda phase: _megabytes(phase.peak_rss_bytes)),
    ("device MB", lambda phase: _megabytes(phase.device_peak_bytes)),
    ("read MB", lambda phase: _megabytes(phase.read_bytes, 1)),
    ("written MB", lambda phase: _megabytes(phase.written_bytes, 1)),
    ("energy J", lambda phase: None if phase.energy_j is None else significant(phase.energy_j)),
    ("other load", lambda phase: None if phase.noise is None else f"{phase.noise:.0%}"),
)


def phase_table(record: Record) -> Table:
    """One row per phase; columns that no phase has a value in are left out."""
    shown = [(title, read) for title, read in _COLUMNS if any(read(phase) is not None for phase in record.phases)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("phase")
    for title, _ in shown:
        table.add_column(title, justify="right")
    table.add_column("")
    for phase in record.phases:
        runs = f"median of {len(phase.repeated)}" if phase.repeated else ""
        remarks = ", ".join(filter(None, ("shared" if phase.shared else "", runs)))
        table.add_row(printable(phase.name), *(read(phase) or ABSENT for _, read in shown), remarks)
    return table


def phase_notes(record: Record, others: Sequence[Record]) -> list[str]:
    """Sentences below the table: what shared work cost here, and why something was not measured."""
    notes = []
    among = users(others)
    sharing, here = cells_sharing(record, among), cpu_s_here(record, among)
    alone, phase = record.metric("quantize_cpu_s"), shared_capture(record)
    if phase is not None and phase.cpu_s is not None and alone is not None and here is not None and sharing > 1:
        notes.append(
            f"capture was shared by {sharing} cells of this store: alone, this cell would take {alone.value:.2f} CPU s "
            f"to capture and quantize; here it took {here:.2f}, with {phase.cpu_s / sharing:.2f} for its part"
        )
    reasons: dict[str, list[str]] = {}
    for each in record.phases:
        for field, reason in each.absent.items():
            reasons.setdefault(reason, []).append(field)
    notes += [f"{', '.join(dict.fromkeys(fields))} not measured: {reason}" for reason, fields in reasons.items()]
    return notes
