"""Principles: rules about what quantization does to small models, each with a prediction that records can refute.

Each file here is one principle, and its name is the file's name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from slmquant import discovery
from slmquant.principles.common.cells import ReadItems, models_of
from slmquant.principles.common.contract import Principle
from slmquant.principles.common.verdicts import Judged, judge
from slmquant.store.record import Record

__all__ = ["Judged", "Principle", "judged", "load", "names"]


def names() -> list[str]:
    """Names of all principles, which are the names of their files."""
    return discovery.names(sys.modules[__name__])


def load(name: str) -> Principle:
    """Load the principle of that name.

    Raises:
        UnknownNameError: There is none; the message suggests similar names.
    """
    module = discovery.load(sys.modules[__name__], name, "principle")
    principle = module.PRINCIPLE
    if not isinstance(principle, Principle):
        raise TypeError(f"PRINCIPLE of {module.__name__} is a {type(principle).__name__}, expected a Principle")
    return principle


def judged(records: Iterable[Record], read_items: ReadItems) -> list[Judged]:
    """Test every principle on records.

    Args:
        records: In the order in which they finished.
        read_items: Returns the answers of a cell, given its id.
    """
    return judge({name: load(name) for name in names()}, models_of(records, read_items))
