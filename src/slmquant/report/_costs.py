"""Costs that only some machines or users have: columns for device memory, energy and money; a note on shared work."""

from __future__ import annotations

from slmquant.analysis.costs import cells_sharing, cpu_s_here, price, users
from slmquant.report._columns import (
    BYTES_PER_MB,
    Column,
    Reading,
    decimal,
    of_metric,
    seconds,
    significant,
    with_values,
)
from slmquant.report._sections import Cell, Section


def cost_columns(section: Section) -> list[Column]:
    """The columns of a section in which any cell has a value."""
    per_hour = section.options.cost_per_hour

    def cost(cell: Cell) -> Reading | None:
        value = None if per_hour is None else price(cell.record, per_hour)
        return None if value is None else Reading(value, significant(value))

    found = [
        Column(
            "device MB",
            "Peak memory on the graphics card during capture and quantize, 10⁶ bytes.",
            of_metric("quantize_device_peak_bytes", decimal(0), BYTES_PER_MB),
        ),
        Column("energy J", "Energy of the computing device meanwhile.", of_metric("quantize_energy_j", significant)),
        Column("cost", f"quant s at {per_hour} per hour.", cost),
    ]
    return with_values(found, section.cells)


def sharing_notes(section: Section) -> list[str]:
    """One sentence: what the cells would have cost alone, and what they cost together; none if they share nothing."""
    records = [cell.record for cell in section.cells]
    among = users(records)
    sharing = [record for record in records if cells_sharing(record, among) > 1]
    if not sharing:
        return []
    alone = sum(metric.value for record in sharing if (metric := record.metric("quantize_cpu_s")) is not None)
    here = sum(cpu_s_here(record, among) or 0.0 for record in sharing)
    captures = len({(phase.seconds, phase.cpu_s) for record in sharing for phase in record.phases if phase.shared})
    return [
        f"Shared work: CPU s is what each cell would take alone, {seconds(alone)} for the {len(sharing)} cells that "
        f"share a capture; here they took {seconds(here)}, with {captures} capture{'s' * (captures != 1)} in all."
    ]
