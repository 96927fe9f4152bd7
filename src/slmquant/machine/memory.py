"""Whether a model fits into this machine's memory, known before it is loaded."""

from __future__ import annotations

import psutil

from slmquant.boundary import size_text

__all__ = ["lacking_memory", "weight_bytes"]

_FLOAT32_BYTES = 4


def weight_bytes(parameters: int) -> int:
    """Memory that the weights of a model take in float32."""
    return parameters * _FLOAT32_BYTES


def lacking_memory(parameters: int) -> str | None:
    """Why a model of so many parameters does not fit into the free memory; None if it does."""
    needed, free = weight_bytes(parameters), psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"its weights take {size_text(needed)} of memory, and {size_text(free)} are free; use a smaller model"
