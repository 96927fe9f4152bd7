"""How well the costs of published cells are estimated, each from the others.

Prints the estimated over the actual processor time and peak memory: median, and the range of the middle eight of ten.
The actual values are what a cell's row has: the sum of its phases, and the largest of their peaks.

    python benchmarks/estimates.py --output results/published/estimates.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from printed import write_printed
from rich.console import Console
from rich.table import Table

from slmquant.analysis.estimates import Costs
from slmquant.store.jsonlines import read_cells

HEADS = ("cost", "cells", "unknown", "estimated over actual, median", "eight of ten between")


def main() -> None:
    """Estimate every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/published"))
    parser.add_argument("--output", type=Path, help="also write the table here as JSON, for the documents' tables")
    given = parser.parse_args()
    records = [record for path in sorted(given.folder.glob("*.jsonl")) for record in read_cells(path)[0]]
    records = [record for record in records if record.status == "ok" and record.phases and record.model is not None]
    times: list[float | None] = []
    peaks: list[float | None] = []
    for record in records:
        if record.model is None or any(phase.cpu_s is None for phase in record.phases):
            continue
        others = Costs([other for other in records if other.cell_id != record.cell_id])
        estimate = others.estimate(record.spec, record.model.parameters)
        cpu_s = sum(phase.cpu_s or 0.0 for phase in record.phases)
        peak_bytes = max(phase.peak_rss_bytes or 0 for phase in record.phases)
        times.append(None if estimate.cpu_s is None else estimate.cpu_s / cpu_s)
        peaks.append(None if estimate.peak_bytes is None else estimate.peak_bytes / peak_bytes)
    rows = [row_of("processor time", times), row_of("peak memory", peaks)]
    table = Table(*HEADS)
    for row in rows:
        table.add_row(*row)
    Console(width=120, highlight=False).print(table)
    if given.output is not None:
        write_printed(given.output, HEADS, rows, f"{len(times)} published cells, each estimated from all others.")


def row_of(name: str, ratios: Sequence[float | None]) -> list[str]:
    """A row of the table."""
    known = [ratio for ratio in ratios if ratio is not None]
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
    return [name, str(len(ratios)), str(len(ratios) - len(known)), f"{middle:.2f}", f"{low:.2f} and {high:.2f}"]


if __name__ == "__main__":
    main()
