"""Two cells side by side, with every p corrected over the whole table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from slmquant.analysis.difference import Difference, difference, verdict
from slmquant.analysis.multiple import holm
from slmquant.store.record import ItemOutcome, Record

OF_THE_TASK = frozenset({"chance", "calibration_tokens", "items_saved"})
"""Facts of what was asked, not of how well it went: not compared."""

K = TypeVar("K", bound=Hashable)


def compare(
    a: Record, b: Record, items_a: Sequence[ItemOutcome] = (), items_b: Sequence[ItemOutcome] = ()
) -> list[Difference]:
    """Every metric that either cell has, their p-values corrected over them all.

    Args:
        a: The cell that is compared with.
        b: The cell that is compared.
        items_a: What `a` answered on each item; accuracies are compared in pairs where both are given.
        items_b: What `b` answered.
    """
    wanted = {(m.name, m.task): None for m in (*a.metrics, *b.metrics) if m.name not in OF_THE_TASK}
    table = {(name, task): difference(name, task, a, b, items_a, items_b) for name, task in wanted}
    return list(corrected(table).values())


def corrected(table: Mapping[K, Difference]) -> dict[K, Difference]:
    """The same differences with Holm's correction over all that have a p, and the verdicts that follow."""
    p_values = holm({key: one.p_value for key, one in table.items() if one.p_value is not None})
    return {key: _with_p(one, p_values[key]) if key in p_values else one for key, one in table.items()}


def _with_p(one: Difference, p: float) -> Difference:
    if one.difference is None:
        return one
    return replace(one, p_corrected=p, verdict=verdict(one.name, one.difference, p, one.higher_is_better))
