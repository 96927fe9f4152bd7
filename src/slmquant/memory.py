"""Memory that is no longer needed goes back to the system, so that a long run stays as small as its largest part."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Return freed memory to the system where the C library can be told to (glibc); do nothing elsewhere.

    Batches of ever different sizes leave holes in the heap. What fits into none of them is taken from the system anew,
    though most of the heap is free: after half an hour of questions a process holds a third more than it uses.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
