"""What `slmquant bench` measures if neither a plan nor an option says otherwise; imports nothing, for the help text."""

from __future__ import annotations

METHODS = ("rtn", "smoothquant", "gptq", "awq", "quarot")
"""One of each kind; none learns, so they take minutes, not hours."""
SCHEMES = ("W8A8", "W4A8", "W4A16g64")
SUITE = "demo"

ENGINE_METHODS = ("rtn", "awq", "gptq_sink")
"""Methods if the plan names engines: their formats hold neither rotations nor activations rounded at run time."""
ENGINE_SCHEMES = ("W4A16g32E8",)
"""All engines' formats hold it; embeddings in 16 bits would be most of what decoding reads."""
