"""Warnings about timings taken while other processes used the machine."""

from __future__ import annotations

from slmquant.report._sections import Section

BUSY = 0.05
"""Share of all processor time that other processes may take without a warning."""

_NOISE = ("noise_others", "noise_stolen")


def busy_notes(section: Section) -> list[str]:
    """Warn of quantizations and engines timed while other processes took more than `BUSY`."""
    warnings = []
    busy = {
        cell.name: noise.value
        for cell in section.quantized
        if (noise := cell.record.metric("quantize_noise")) is not None and noise.value > BUSY
    }
    if busy:
        warnings.append(
            f"Quantized while other processes took up to {max(busy.values()):.0%} of all processor time: "
            f"{', '.join(busy)}. CPU s is affected less than quant s; for exact times, measure on a quiet machine."
        )
    for engine in section.engines:
        records = [cell.engines[engine].record for cell in section.cells if engine in cell.engines]
        taken = [sum(m.value for name in _NOISE if (m := record.metric(name))) for record in records]
        if max(taken) > BUSY:
            warnings.append(
                f"{engine} was timed while other processes took up to {max(taken):.0%} of all processor time. × full "
                "is affected less than tok/s; for exact speeds, measure on a quiet machine."
            )
    return warnings
