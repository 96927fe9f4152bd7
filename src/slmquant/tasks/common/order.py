"""Which items of a task are asked, and in which order."""

from __future__ import annotations

from collections.abc import Mapping

from slmquant.item_order import item_order_key
from slmquant.store.record import TaskSpec

__all__ = ["items_asked"]


def items_asked(sizes: Mapping[str, int], spec: TaskSpec) -> list[tuple[str, int]]:
    """All items of a task as (subtask, index in its split), in the order in which they are asked.

    In the splits' own order the subtasks take turns: the first item of each, then the second, ... In a random order
    items are sorted by a hash of the seed and of what they are, so the order is the same for every cell and on every
    machine, and does not depend on how many items are asked.

    Args:
        sizes: Subtask → its number of items; the task itself where it has no subtasks.
        spec: Says which order. Its limit is not applied.
    """
    items = [(name, index) for name, size in sizes.items() for index in range(size)]
    seed = spec.order_seed
    if seed is None:
        return sorted(items, key=lambda item: item[1])  # stable: subtasks stay in their own order
    return sorted(items, key=lambda item: item_order_key(seed, spec.name, *item))
