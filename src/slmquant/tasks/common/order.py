"""The order in which a task's items are evaluated."""

from __future__ import annotations

from collections.abc import Mapping

from slmquant.item_order import item_order_key
from slmquant.store.record import TaskSpec

__all__ = ["items_asked"]


def items_asked(sizes: Mapping[str, int], spec: TaskSpec) -> list[tuple[str, int]]:
    """All items of a task as (subtask, index in its split), in the order in which they are evaluated.

    In the splits' own order, the subtasks take turns: the first item of each, then the second, ... In a random order,
    items are sorted by a hash of the seed, the task and the item, so the order is the same for every cell and on every
    machine, and does not depend on how many items are evaluated.

    Args:
        sizes: Subtask → its number of items; a task without subtasks is its own only subtask.
        spec: The task, with `order_seed` for a random order. Its limit is not applied.
    """
    items = [(name, index) for name, size in sizes.items() for index in range(size)]
    seed = spec.order_seed
    if seed is None:
        return sorted(items, key=lambda item: item[1])  # stable: subtasks stay in their own order
    return sorted(items, key=lambda item: item_order_key(seed, spec.name, *item))
