"""How quantized models lie on disk: one file, one format."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from slmquant import plugins

if TYPE_CHECKING:  # an engine that reads a helper from here does not need torch for it
    from slmquant.formats.common.contract import Format


def names() -> list[str]:
    """Every format, by the name of its file."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Format:
    """The format of that name.

    Raises:
        UnknownNameError: No such format; the message carries the nearest names.
    """
    return cast("Format", plugins.load(sys.modules[__name__], name.lower(), "format").FORMAT)
