"""Import the `openvino` package without its telemetry, and open its graphs.

`import openvino` sends an event to a web analytics service through `openvino_telemetry` and stores an identifier in the
home folder. If that module cannot be imported, openvino uses a stub instead; so slmquant blocks the module while it
imports openvino.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from slmquant.boundary import guarded, last_line
from slmquant.errors import ModelError, UnavailableError

if TYPE_CHECKING:
    import openvino as ov

GRAPH = "openvino_model.xml"
"""Name of the graph file in a folder."""
NOT_INSTALLED = "openvino is not installed; pip install 'slmquant[openvino]'"
_TELEMETRY = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """Import openvino without telemetry.

    Raises:
        UnavailableError: openvino is not installed.
    """
    with unreported():
        try:
            import openvino
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                raise
            raise UnavailableError(NOT_INSTALLED) from error
    package: ModuleType = openvino
    return package


@contextmanager
def unreported() -> Iterator[None]:
    """Context in which `openvino_telemetry` cannot be imported, by openvino or by packages built on it."""
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes the import system raise ImportError
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def open_graph(path: Path) -> ov.Model:
    """Read the graph of the folder `path`; it need not be from slmquant.

    Raises:
        ModelError: The folder has no graph, or a damaged one.
        UnavailableError: openvino is not installed.
    """
    core = import_openvino().Core()
    if not (path / GRAPH).is_file():
        raise ModelError(f"{path} has no {GRAPH}; expected a folder that slmquant or optimum exported for OpenVINO")
    with guarded(lambda why: f"{path} is damaged ({why}); export it again", say=last_line):
        return core.read_model(path / GRAPH)
