"""Ctrl-C, SIGTERM and a closed terminal end a command between two steps, and what is being stored first.

The handler raises `KeyboardInterrupt` wherever the main thread is. Libraries turn that into errors of their own
(pydantic does, and some imports), so the handler also remembers it, and nothing is stored afterwards.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class _Received:
    """The interruptions that this process has received."""

    count = 0
    holding = False


def install() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal interrupt this process; a signal that is ignored (`nohup`) stays so."""
    _Received.count, _Received.holding = 0, False
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def stop_if_interrupted() -> None:
    """Raise `KeyboardInterrupt` if an interruption came before and was lost in a library."""
    if _Received.count:
        raise KeyboardInterrupt


@contextmanager
def finished_first() -> Iterator[None]:
    """A block that the first interruption waits for; a second one interrupts it at once."""
    stop_if_interrupted()
    _Received.holding = True
    try:
        yield
    finally:
        _Received.holding = False
    stop_if_interrupted()


@contextmanager
def recognised() -> Iterator[None]:
    """A block whose errors are `KeyboardInterrupt` once there was an interruption."""
    try:
        yield
    except Exception as error:
        if _Received.count:
            raise KeyboardInterrupt from error
        raise


@contextmanager
def held_back() -> Iterator[None]:
    """A short block that Ctrl-C does not enter; processes that it starts never receive Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    _Received.count += 1
    if not _Received.holding or _Received.count > 1:
        raise KeyboardInterrupt
