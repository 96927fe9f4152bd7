"""Whether some weights deserve more bits than others: what they gain, against what as many bytes gain elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from slmquant.principles.common.cells import Cell, ModelCells, Text
from slmquant.principles.common.contract import Need
from slmquant.principles.common.needs import need
from slmquant.principles.common.windows import Matched, PerWindow, weighted
from slmquant.store.record import Record


def worth_more(before: str, after: str, base: str, spread: str) -> PerWindow:
    """Evidence from the divergence that a step gains, minus what its bytes gain when they are spread over all weights.

    Args:
        before: The cell before the step, as `method/scheme`.
        after: The cell after it.
        base: The cell before bytes are spread.
        spread: The cell after that.
    """
    cells = tuple(map(Cell.of, (before, after, base, spread)))
    label = f"{before} → {after}, against as many bytes of {base} → {spread}"

    def find(text: Text) -> Iterable[Matched]:
        for records in text.alike():
            chosen = tuple(records[cell] for cell in cells if cell in records)
            if len(chosen) == len(cells) and (share := _share(chosen)) is not None:
                yield Matched(label, chosen, partial(weighted, (1.0, -1.0, -share, share)))

    def lacking(model: ModelCells) -> tuple[Need, ...]:
        return (need(model, cells),)

    return PerWindow(find, lacking, "nats")


def _share(records: tuple[Record, ...]) -> float | None:
    """The bytes of the step as a share of those that are spread; None if sizes are unknown or do not grow."""
    sizes = [metric.value for record in records if (metric := record.metric("stored_bytes")) is not None]
    if len(sizes) < len(records):
        return None
    before, after, base, spread = sizes
    return (after - before) / (spread - base) if after > before and spread > base else None
