"""File formats for quantized models: one module or package per format."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from slmquant import discovery

if TYPE_CHECKING:  # engines import helpers from here without torch
    from slmquant.formats.common.contract import Format


def names() -> list[str]:
    """Names of all formats."""
    return discovery.names(sys.modules[__name__])


def load(name: str) -> Format:
    """The format called `name`.

    Raises:
        UnknownNameError: There is no such format; the message suggests the nearest names.
    """
    return cast("Format", discovery.load(sys.modules[__name__], name.lower(), "format").FORMAT)
