"""Progress reports of long work; the caller chooses the listener (a terminal, a pipe, none)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives progress updates. Only one phase runs at a time."""

    def start(self, phase: str, total: int | None) -> None:
        """Begin a phase of `total` steps; None if the number is unknown."""

    def advance(self, steps: int = 1) -> None:
        """Report that some steps of the phase are done."""


class Silent:
    """Ignores all progress updates."""

    def start(self, phase: str, total: int | None) -> None:
        """Ignore the phase."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""


def track(items: Iterable[T], phase: str, progress: Progress, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` as one phase, one step per item; `total` is their number if `items` has no length."""
    progress.start(phase, len(items) if isinstance(items, Sized) else total)
    for item in items:
        yield item
        progress.advance()
