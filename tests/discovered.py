"""Relations of tiny models, discovered once for all tests of a process."""

from __future__ import annotations

import functools

from slmquant.model.discovery.relations import discover
from slmquant.model.structure import Relations
from slmquant.testing.tiny import tiny


@functools.cache
def relations_of(architecture: str) -> Relations:
    """Those of an architecture, whatever its weights."""
    return discover(tiny(architecture))
