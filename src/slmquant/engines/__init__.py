"""Who runs quantized models: one file, one runtime. An engine that is not installed is listed, with what to install."""

from __future__ import annotations

import sys
from typing import cast

from slmquant import plugins
from slmquant.engines.common.contract import Engine


def names() -> list[str]:
    """Every engine, by the name of its file."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: No such engine; the message carries the nearest names.
    """
    return cast(Engine, plugins.load(sys.modules[__name__], name.lower(), "engine").ENGINE)
