"""slmquant: quantize small language models, measure what it took away and what it cost, decide what to ship."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from slmquant._version import __version__

if TYPE_CHECKING:
    from slmquant.api import bench as bench
    from slmquant.api import evaluate as evaluate
    from slmquant.api import inspect as inspect
    from slmquant.api import open_artifact as open_artifact
    from slmquant.api import quantize as quantize
    from slmquant.artifact import Artifact as Artifact
    from slmquant.errors import SlmquantError as SlmquantError
    from slmquant.schemes import Scheme as Scheme
    from slmquant.schemes import parse as parse
    from slmquant.store import Record as Record
    from slmquant.store import Store as Store
    from slmquant.store.record import CalibrationSpec as CalibrationSpec

_HOMES = {
    "Artifact": "slmquant.artifact",
    "CalibrationSpec": "slmquant.store.record",
    "Record": "slmquant.store",
    "Scheme": "slmquant.schemes",
    "SlmquantError": "slmquant.errors",
    "Store": "slmquant.store",
    "bench": "slmquant.api",
    "evaluate": "slmquant.api",
    "inspect": "slmquant.api",
    "open_artifact": "slmquant.api",
    "parse": "slmquant.schemes",
    "quantize": "slmquant.api",
}
"""Public name → its module, imported on first use, so that `import slmquant` stays light."""

__all__ = ["__version__", *_HOMES]  # all are strings


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'slmquant' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
