"""How long work reports where it is; who shows it (a terminal, a pipe, nobody) is the caller's choice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A listener to long work. One phase is under way at a time."""

    def start(self, phase: str, total: int | None) -> None:
        """A phase begins; `total` is its number of steps, or None where that is not known."""

    def advance(self, steps: int = 1) -> None:
        """Some steps of the phase are done."""


class Silent:
    """The listener that shows nothing."""

    def start(self, phase: str, total: int | None) -> None:
        """Ignore the phase."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""


def track(items: Iterable[T], phase: str, progress: Progress, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` as one phase, a step per item; `total` is their number where they cannot say it."""
    progress.start(phase, len(items) if isinstance(items, Sized) else total)
    for item in items:
        yield item
        progress.advance()
