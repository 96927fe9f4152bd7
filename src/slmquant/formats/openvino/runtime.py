"""The `openvino` package, imported where it is needed and kept from reporting to its maker.

`import openvino` sends an event to a web analytics service through `openvino_telemetry` and leaves an identifier in
the home folder. Where that module cannot be imported, openvino takes a stub of its own instead; so while slmquant
imports openvino, it cannot.
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
"""The file of a folder that holds its graph."""
NOT_INSTALLED = "openvino is not installed; pip install 'slmquant[openvino]'"
_TELEMETRY = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The package.

    Raises:
        UnavailableError: It is not installed.
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
    """What is imported within this context, of openvino or of what builds on it, does not find `openvino_telemetry`."""
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's own way to say: do not import this
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def open_graph(path: Path) -> ov.Model:
    """The graph of the folder `path`, whoever wrote it.

    Raises:
        ModelError: There is none, or it is damaged.
        UnavailableError: openvino is not installed.
    """
    core = import_openvino().Core()
    if not (path / GRAPH).is_file():
        raise ModelError(f"{path} holds no {GRAPH}; expected a folder that slmquant or optimum exported for OpenVINO")
    with guarded(lambda why: f"{path} is damaged ({why}); export it again", say=last_line):
        return core.read_model(path / GRAPH)
