"""What was changed of prompts so that a model could read them, said once for all items of a task."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

__all__ = ["Cuts", "item_of"]


def item_of(request: Any) -> Hashable:
    """The item that a request of lm-eval belongs to: the options of a question are requests of one item."""
    return request.task_name, request.idx if request.doc_id is None else request.doc_id


class Cuts:
    """Items whose prompts were longer than a model takes, and answers that left no token of their own.

    Args:
        name: The task's name.
        room: Tokens that the model takes.
    """

    def __init__(self, name: str, room: int | None) -> None:
        self._name, self._room = name, room
        self._excess: dict[Hashable, int] = {}
        self._melted: set[Hashable] = set()

    def asked(self, item: Hashable, tokens: int, room: int | None) -> None:
        """A prompt of `tokens` was put, of which `room` could be read; an item may have several prompts."""
        excess = 0 if room is None else max(0, tokens - room)
        self._excess[item] = max(self._excess.get(item, 0), excess)

    def melted(self, item: Hashable) -> None:
        """An answer of this item is part of the last token of the question."""
        self._melted.add(item)

    @property
    def remarks(self) -> tuple[str, ...]:
        """A line each for the row; empty where nothing was changed."""
        found = []
        if cut := [excess for excess in self._excess.values() if excess]:
            found.append(
                f"{self._name}: {len(cut)} of {len(self._excess)} items are longer than the {self._room} tokens that "
                f"the model takes and were cut on their left, by {sum(cut) / len(cut):.0f} tokens on average and "
                f"{max(cut)} at most"
            )
        if self._melted:
            found.append(
                f"{self._name}: {len(self._melted)} of {len(self._excess)} items have an answer that melts into the "
                "question's last token; it is scored as its own tokens behind the question"
            )
        return tuple(found)
