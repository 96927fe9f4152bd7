"""Compare two cells metric by metric, with Holm-corrected p-values for the primary endpoints."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from slmquant.analysis.difference import Difference, difference, judged
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.analysis.multiple import holm
from slmquant.store.record import ItemOutcome, Record

OF_THE_TASK = frozenset({"chance", "calibration_tokens", "items_saved"})
"""Metrics that describe the task rather than the result; they are not compared."""

K = TypeVar("K", bound=Hashable)


def compare(
    a: Record,
    b: Record,
    items_a: Sequence[ItemOutcome] = (),
    items_b: Sequence[ItemOutcome] = (),
    margins: Margins = DEFAULT_MARGINS,
) -> list[Difference]:
    """Compare every metric that either cell has; primary endpoints come first, with a verdict.

    Args:
        a: The baseline cell.
        b: The cell to judge; verdicts are about it.
        items_a: The answers of `a` to each item; with those of `b`, the comparison is paired.
        items_b: The answers of `b`.
        margins: Differences that count as none.
    """
    compared = {(m.name, m.task): None for m in (*a.metrics, *b.metrics) if m.name not in OF_THE_TASK}
    table = {(name, task): difference(name, task, a, b, items_a, items_b, margins) for name, task in compared}
    return sorted(corrected(table).values(), key=lambda entry: entry.endpoint is None)


def corrected(table: Mapping[K, Difference]) -> dict[K, Difference]:
    """The same table with p-values corrected by Holm over all primary endpoints, and with verdicts.

    Tests of difference are one family and tests of equivalence another; each holds all endpoints that have a p.
    """
    p_values = holm({key: entry.p_value for key, entry in table.items() if entry.p_value is not None})
    equivalence = holm({key: entry.p_equivalence for key, entry in table.items() if entry.p_equivalence is not None})
    result = dict(table)
    for key, p in p_values.items():
        entry = replace(table[key], p_corrected=p, p_equivalence_corrected=equivalence.get(key))
        result[key] = judged(entry, p, equivalence.get(key), len(p_values))
    return result
