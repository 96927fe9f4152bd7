"""How numbers are found: one file, one method; the folder listing is the feature list."""

from __future__ import annotations

import sys

from slmquant import plugins
from slmquant.methods.common.recipe import Recipe, combine
from slmquant.store.record import REFERENCE as REFERENCE


def names() -> list[str]:
    """Every method, by the name of its file."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Recipe:
    """The method of that name, or the combination `a+b` of several.

    Raises:
        UnknownNameError: A part is not a method; the message carries the nearest names.
        RefusedError: The parts cannot be combined; see `combine`.
    """
    parts = name.lower().split("+")
    return combine(name, [_recipe(part) for part in parts])


def documentation(name: str) -> str:
    """What the file of a method says about it: paper, deviations, cost.

    Raises:
        UnknownNameError: No such method.
    """
    return plugins.load(sys.modules[__name__], name.lower(), "method").__doc__ or ""


def _recipe(name: str) -> Recipe:
    module = plugins.load(sys.modules[__name__], name, "method")
    recipe = module.METHOD
    if not isinstance(recipe, Recipe):
        raise TypeError(f"METHOD of {module.__name__} is a {type(recipe).__name__}, expected a Recipe")
    return recipe
