"""All errors that slmquant raises on purpose.

::

    SlmquantError                  one line for the user: what is wrong, the value, what was expected, what to do
    ├── UnknownNameError           unknown method, model, task, corpus, ...; names the nearest known ones
    ├── SchemeError                a scheme that cannot be parsed or contradicts itself
    ├── RefusedError               a valid but unsupported combination; a cell becomes `refused`
    ├── UnavailableError           a missing package or engine; a cell becomes `failed` and is tried again
    ├── ModelError                 an unusable model: not decoder-only, pickled, corrupt, NaN weights
    ├── SourceError                a source that cannot be fetched: no network, checksum mismatch
    │   └── SpaceError             a full disk, wherever it shows
    ├── DataError                  missing or malformed data of a corpus or task
    ├── NumericalError             a solver or loss that became non-finite
    ├── StoreError                 a result store that cannot be read or written
    ├── OutputError                an output path that is not writable or holds something else
    ├── PlanError                  a plan that cannot be read, or wrong fields or names in one
    └── TaskNameError              a task that cannot be read

A command prints these errors as one line and exits with `exit_code`. For any other exception, which is a bug, it prints
one line and saves the traceback to a file. Exceptions of libraries are converted in `slmquant.boundary`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "FAILED_CELLS",
    "INTERRUPTED",
    "CacheError",
    "DataError",
    "ModelError",
    "NumericalError",
    "OutputError",
    "PlanError",
    "RefusedError",
    "SchemeError",
    "SlmquantError",
    "SourceError",
    "SpaceError",
    "StoreError",
    "TaskNameError",
    "UnavailableError",
    "UnknownNameError",
    "first_line",
]


FAILED_CELLS = 9
"""Exit code of a command that finished, with cells that failed."""
INTERRUPTED = 130
"""Exit code of a command that the user interrupted."""


def first_line(error: BaseException) -> str:
    """First line of an error's text that is not blank; empty if it has no text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


class SlmquantError(Exception):
    """Base class; its message is meant for the user."""

    exit_code = 1


class UnknownNameError(SlmquantError):
    """An unknown name; the message lists the known names, nearest ones first.

    Attributes:
        kind: Kind of name ("method", "model", ...).
        name: The unknown name.
        known: All known names.
    """

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name.lower(), self.known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(self.known) or 'none'}.")


class SchemeError(SlmquantError):
    """A scheme name that cannot be parsed, or a scheme that contradicts itself."""

    exit_code = 2


class RefusedError(SlmquantError):
    """A valid combination that is not supported; the reason is part of the results."""

    exit_code = 3


class UnavailableError(SlmquantError):
    """A package or engine that is not installed; the message says how to install it."""

    exit_code = 5


class ModelError(SlmquantError):
    """A model that cannot be used."""

    exit_code = 4


class SourceError(SlmquantError):
    """A model or data source that could not be fetched or verified."""

    exit_code = 5


class SpaceError(SourceError):
    """A disk without enough free space for an output."""

    exit_code = 10


class DataError(SlmquantError):
    """Missing or malformed data of a corpus or task."""

    exit_code = 6


class CacheError(DataError):
    """An entry of the cache that is missing or was damaged; the work that needs it succeeds if it is tried again."""


class NumericalError(SlmquantError):
    """A computation that became non-finite."""

    exit_code = 7


class StoreError(SlmquantError):
    """A result store that cannot be read or written."""

    exit_code = 8


class OutputError(SlmquantError):
    """An output path that cannot be written, or only by losing existing data."""

    exit_code = 2


class PlanError(SlmquantError):
    """A plan cannot be read, or fields of it are wrong; a refused combination in it keeps its own exit code.

    Attributes:
        lines: The message, one line for each thing that is wrong.
    """

    exit_code = 2

    def __init__(self, *lines: str, exit_code: int = 2) -> None:
        self.lines, self.exit_code = lines, exit_code
        super().__init__("\n".join(lines))


class TaskNameError(SlmquantError):
    """A task cannot be read."""

    exit_code = 2
