"""What was freed leaves the process."""

import ctypes
import sys

import psutil
import pytest

from slmquant.memory import give_back


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library cannot be told"
)
def test_holes_in_the_heap_go_back_to_the_system() -> None:
    """Blocks below the size that is mapped one by one, and every tenth of them stays: the heap's end cannot shrink."""
    blocks = [bytearray(50_000) for _ in range(4000)]
    kept = blocks[::10]
    del blocks
    before = psutil.Process().memory_info().rss
    give_back()

    assert psutil.Process().memory_info().rss < before - 100e6
    assert len(kept) == 400


def test_it_may_be_called_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)

    assert give_back() is None
