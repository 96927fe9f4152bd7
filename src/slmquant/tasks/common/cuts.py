"""Records prompts that were cut to a model's context, and summarises them per task."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

__all__ = ["Cuts", "item_of"]


def item_of(request: Any) -> Hashable:
    """The item that a request of lm-eval belongs to; all options of a question are requests of one item."""
    return request.task_name, request.idx if request.doc_id is None else request.doc_id


class Cuts:
    """Counts items whose prompts exceed the model's context, and answers without a token of their own.

    Args:
        name: The task's name.
        room: The model's context, in tokens; None if unlimited.
    """

    def __init__(self, name: str, room: int | None) -> None:
        self._name, self._room = name, room
        self._excess: dict[Hashable, int] = {}
        self._melted: set[Hashable] = set()

    def asked(self, item: Hashable, tokens: int, room: int | None) -> None:
        """Record a prompt of `tokens` tokens, of which the model could read `room`; an item may have several."""
        excess = 0 if room is None else max(0, tokens - room)
        self._excess[item] = max(self._excess.get(item, 0), excess)

    def melted(self, item: Hashable) -> None:
        """Record that an answer of this item is part of the last token of the question."""
        self._melted.add(item)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for the row, one line each; empty if nothing was changed."""
        lines = []
        if cut := [excess for excess in self._excess.values() if excess]:
            lines.append(
                f"{self._name}: {len(cut)} of {len(self._excess)} items are longer than the {self._room} tokens that "
                f"the model takes and were cut on their left, by {sum(cut) / len(cut):.0f} tokens on average and "
                f"{max(cut)} at most"
            )
        if self._melted:
            lines.append(
                f"{self._name}: {len(self._melted)} of {len(self._excess)} items have an answer that melts into the "
                "question's last token; it is scored as its own tokens behind the question"
            )
        return tuple(lines)
