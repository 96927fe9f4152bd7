"""Everything slmquant raises on purpose.

::

    SlmquantError                  one line for the user: what, the value, what was expected, what to do
    ├── UnknownNameError           no such method, model, task, corpus, ...; carries the nearest known names
    ├── SchemeError                a scheme that cannot be read or that contradicts itself
    ├── RefusedError               a combination that is understood and impossible; a cell becomes `refused`
    ├── UnavailableError           a package or an engine that is not here; a cell becomes `failed`, to be tried again
    ├── ModelError                 a model that cannot be used: not decoder-only, pickled, corrupt, NaN weights
    ├── SourceError                a source that cannot be fetched: no network, checksum mismatch
    │   └── SpaceError             no room left on a disk, wherever it shows
    ├── DataError                  a corpus or a task whose data is absent or malformed
    ├── NumericalError             a solver or a loss that stopped being finite
    ├── StoreError                 a result store that cannot be read or written
    └── OutputError                an output that would take the place of something else

A command prints these as one line and exits with `exit_code`; of any other exception, a bug, it prints one line, too,
and saves the traceback in a file. What libraries raise becomes one of these in `slmquant.boundary`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "ModelError",
    "NumericalError",
    "OutputError",
    "RefusedError",
    "SchemeError",
    "SlmquantError",
    "SourceError",
    "SpaceError",
    "StoreError",
    "UnavailableError",
    "UnknownNameError",
]


class SlmquantError(Exception):
    """The root: an error whose message is meant for the user."""

    exit_code = 1


class UnknownNameError(SlmquantError):
    """A name that is not known, answered with the nearest known ones and the list.

    Attributes:
        kind: What was looked up ("method", "model", ...).
        name: The name that was asked for.
        known: Every name that would have been understood.
    """

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name.lower(), self.known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(self.known) or 'none'}.")


class SchemeError(SlmquantError):
    """A scheme name that cannot be read, or a scheme that contradicts itself."""

    exit_code = 2


class RefusedError(SlmquantError):
    """A combination that is understood and cannot be done; the reason is a finding."""

    exit_code = 3


class UnavailableError(SlmquantError):
    """A package or an engine that is not here; the message says how to install it."""

    exit_code = 5


class ModelError(SlmquantError):
    """A model that cannot be used."""

    exit_code = 4


class SourceError(SlmquantError):
    """A model or data source that could not be fetched or verified."""

    exit_code = 5


class SpaceError(SourceError):
    """A disk that has no room for what shall be written."""

    exit_code = 10


class DataError(SlmquantError):
    """A corpus or task whose data is absent or malformed."""

    exit_code = 6


class NumericalError(SlmquantError):
    """A computation that stopped being finite."""

    exit_code = 7


class StoreError(SlmquantError):
    """A result store that cannot be read or written."""

    exit_code = 8


class OutputError(SlmquantError):
    """An output path that cannot be written, or not without losing what lies there."""

    exit_code = 2
