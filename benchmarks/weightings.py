"""Compares GPTQ with and without weighted tokens: paired differences of a figure on every text in a store.

    slmquant bench --plan plans/weightings.yaml --store weightings.sqlite
    python benchmarks/weightings.py weightings.sqlite

Each line is one model, scheme and text: the divergence from full precision with uniform tokens, the one with weighted
tokens, and their difference over the same windows with its 95 % interval. All cells of the plan are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slmquant.analysis.difference import difference
from slmquant.store.record import Record
from slmquant.store.sqlite import Store

PAIRS = (
    ("gptq", "gptq_energy"),
    ("gptq", "gptq_importance"),
    ("gptq", "gptq_sink"),
    ("gptq_sink_uniform", "gptq_sink"),
    ("awq+gptq_sink_uniform", "awq+gptq_sink"),
    ("awq+gptq", "awq+gptq_sink"),
    ("gptq_mse_uniform", "gptq_mse"),
    ("gptq_sink", "gptq_mse"),
)
FIGURE = "kl_mean"


def main() -> None:
    """Print the table of all pairs in the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--figure", default=FIGURE)
    given = parser.parse_args()
    table = Table("model", "scheme", "text", "before", "after", "", "", "difference [95 %]", "verdict")
    with Store(given.store, read_only=True) as store:
        records = store.records()
        for first in records:
            for second in records:
                if (first.spec.method, second.spec.method) in PAIRS and _same(first, second):
                    for row in _rows(store, first, second, given.figure):
                        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


def _same(first: Record, second: Record) -> bool:
    a, b = first.spec, second.spec
    return (a.model, a.scheme, a.calibration, a.seed) == (b.model, b.scheme, b.calibration, b.seed)


def _rows(store: Store, first: Record, second: Record, figure: str) -> list[tuple[str, ...]]:
    """One row for each text; a failed cell has one row with its reason."""
    names = (first.spec.model, first.spec.scheme)
    pair = (first.spec.method, second.spec.method)
    if first.status != "ok" or second.status != "ok":
        reason = first.reason or second.reason or "not measured"
        return [(*names, "", *pair, "", "", "", reason)]
    items = store.items(first.cell_id), store.items(second.cell_id)
    rows = []
    for task in dict.fromkeys(metric.task for metric in first.metrics if metric.name == figure):
        found = difference(figure, task, first, second, *items)
        interval = "" if found.interval is None else f" [{found.interval.low:+.4f}, {found.interval.high:+.4f}]"
        values = tuple("" if value is None else f"{value:.4f}" for value in (found.a, found.b))
        change = "" if found.difference is None else f"{found.difference:+.4f}{interval}"
        rows.append((*names, str(task), *pair, *values, change, found.verdict))
    return rows


if __name__ == "__main__":
    main()
