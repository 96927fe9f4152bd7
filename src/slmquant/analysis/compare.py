"""Two cells side by side, with the p-values of the primary endpoints corrected over the table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from slmquant.analysis.difference import Difference, difference, judged
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.analysis.multiple import holm
from slmquant.store.record import ItemOutcome, Record

OF_THE_TASK = frozenset({"chance", "calibration_tokens", "items_saved"})
"""Facts of what was asked, not of how well it went: not compared."""

K = TypeVar("K", bound=Hashable)


def compare(
    a: Record,
    b: Record,
    items_a: Sequence[ItemOutcome] = (),
    items_b: Sequence[ItemOutcome] = (),
    margins: Margins = DEFAULT_MARGINS,
) -> list[Difference]:
    """Every metric that either cell has: primary endpoints first, with a verdict; the rest as it is.

    Args:
        a: The cell that is compared with.
        b: The cell that is compared.
        items_a: What `a` answered on each item; accuracies are compared in pairs where both are given.
        items_b: What `b` answered.
        margins: What counts as no difference.
    """
    wanted = {(m.name, m.task): None for m in (*a.metrics, *b.metrics) if m.name not in OF_THE_TASK}
    table = {(name, task): difference(name, task, a, b, items_a, items_b, margins) for name, task in wanted}
    return sorted(corrected(table).values(), key=lambda one: one.endpoint is None)


def corrected(table: Mapping[K, Difference]) -> dict[K, Difference]:
    """The same with Holm's correction over all primary endpoints, and the verdicts that follow.

    Claims of a difference are one family and claims of equivalence another, each of all endpoints that have a p.
    """
    p_values = holm({key: one.p_value for key, one in table.items() if one.p_value is not None})
    equivalence = holm({key: one.p_equivalence for key, one in table.items() if one.p_equivalence is not None})
    found = dict(table)
    for key, p in p_values.items():
        one = replace(table[key], p_corrected=p, p_equivalence_corrected=equivalence.get(key))
        found[key] = judged(one, p, equivalence.get(key), len(p_values))
    return found
