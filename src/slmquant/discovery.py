"""Finds plug-ins by name and imports them.

A plug-in is a file, and its name is the file's name.

In a plug-in package every module or folder without a leading underscore is one plug-in, except `common`, which holds
shared code. Third parties add plug-ins through an entry point in the group of the same name (`slmquant.methods`,
`slmquant.formats`, ...).
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from slmquant.errors import UnknownNameError

SHARED = "common"
"""Folder of shared code in a plug-in package; not a plug-in."""


def _external(package: ModuleType) -> Mapping[str, EntryPoint]:
    return _entry_points(package.__name__, tuple(sys.path))


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """Entry points of a group by name, read once for each `sys.path`: that opens a file of every installed package."""
    del path
    return {point.name: point for point in entry_points(group=group)}


def names(package: ModuleType) -> list[str]:
    """Names of the plug-ins of `package`, without importing any of them."""
    builtin = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")} - {SHARED}
    return sorted(builtin | set(_external(package)))


def load(package: ModuleType, name: str, kind: str) -> ModuleType:
    """Import the plug-in `name` of `package`.

    Args:
        package: The plug-in package, for example `slmquant.methods`.
        name: The plug-in's file name without its suffix.
        kind: The kind of plug-in as users know it, for the error message ("method").

    Raises:
        UnknownNameError: There is no such plug-in. A *broken* plug-in raises its own import error instead, so that
            a missing dependency never looks like a missing feature.
    """
    if name not in names(package):
        raise UnknownNameError(kind, name, names(package))
    external = _external(package).get(name)
    if external is not None:
        module = external.load()
        if not isinstance(module, ModuleType):
            raise TypeError(f"entry point {external.value!r} is not a module")
        return module
    return import_module(f"{package.__name__}.{name}")


def by_name(package: str, name: str) -> ModuleType:
    """Import slmquant's own plug-in `name`, for modules that must not import `package` themselves."""
    return import_module(f"{package}.{name}")
