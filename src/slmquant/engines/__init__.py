"""Engines that run quantized models: one module per runtime. Engines that are not installed are listed, too."""

from __future__ import annotations

import sys
from typing import cast

from slmquant import discovery
from slmquant.engines.common.contract import Engine


def names() -> list[str]:
    """Names of all engines."""
    return discovery.names(sys.modules[__name__])


def load(name: str) -> Engine:
    """The engine called `name`.

    Raises:
        UnknownNameError: There is no such engine; the message suggests the nearest names.
    """
    return cast(Engine, discovery.load(sys.modules[__name__], name.lower(), "engine").ENGINE)
