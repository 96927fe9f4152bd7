"""The random order of items: the same for every cell, on every machine, and for any number of items."""

from __future__ import annotations

import hashlib


def item_order_key(seed: int, task: str, subtask: str, index: int | str) -> bytes:
    """The sort key of an item; items are evaluated in ascending order of their keys.

    Args:
        seed: Another seed gives another order.
        task: Name of the task.
        subtask: Part of the task that the item belongs to; the task's own name if it has no parts.
        index: Position of the item in its split.
    """
    return hashlib.sha256(f"{seed}/{task}/{subtask}/{index}".encode()).digest()
