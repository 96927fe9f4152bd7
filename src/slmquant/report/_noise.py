"""Warnings of figures that were measured while something else used the machine."""

from __future__ import annotations

from slmquant.report._sections import Section

BUSY = 0.05
"""Share of all processor time that others may take before what was timed meanwhile needs a warning."""

_NOISE = ("noise_others", "noise_stolen")


def busy_notes(section: Section) -> list[str]:
    """Quantizations and engines that were timed while others took more than `BUSY`."""
    said = []
    busy = {
        cell.name: noise.value
        for cell in section.quantized
        if (noise := cell.record.metric("quantize_noise")) is not None and noise.value > BUSY
    }
    if busy:
        said.append(
            f"Quantized while others took up to {max(busy.values()):.0%} of all processor time: {', '.join(busy)}; "
            "trust CPU s before quant s, and neither far."
        )
    for engine in section.engines:
        records = [cell.engines[engine].record for cell in section.cells if engine in cell.engines]
        taken = [sum(m.value for name in _NOISE if (m := record.metric(name))) for record in records]
        if max(taken) > BUSY:
            said.append(
                f"{engine} was timed while others took up to {max(taken):.0%} of all processor time: trust × full "
                "before tok/s, and measure again on a quiet machine."
            )
    return said
