"""A random order of items that is the same for every cell, on every machine, and however many of them are asked."""

from __future__ import annotations

import hashlib


def lot(seed: int, task: str, subtask: str, index: int | str) -> bytes:
    """What an item draws; items are asked from the smallest to the largest.

    Args:
        seed: Another one is another order.
        task: Name of the task.
        subtask: The part of the task that the item belongs to; the task itself where it has no parts.
        index: Of the item in its split.
    """
    return hashlib.sha256(f"{seed}/{task}/{subtask}/{index}".encode()).digest()
