"""Quantization methods, one per file; a file's name is the method's name."""

from __future__ import annotations

import sys

from slmquant import discovery
from slmquant.methods.common.recipe import Recipe, combine
from slmquant.store.record import REFERENCE as REFERENCE


def names() -> list[str]:
    """Names of all methods, which are the names of their files."""
    return discovery.names(sys.modules[__name__])


def load(name: str) -> Recipe:
    """Load the method of that name, or the combination `a+b` of several.

    Raises:
        UnknownNameError: A part is not a method; the message suggests similar names.
        RefusedError: The parts cannot be combined; see `combine`.
    """
    parts = name.lower().split("+")
    return combine(name, [_recipe(part) for part in parts])


def documentation(name: str) -> str:
    """The docstring of a method's file: paper, equation, deviations, cost.

    Raises:
        UnknownNameError: No such method.
    """
    return discovery.load(sys.modules[__name__], name.lower(), "method").__doc__ or ""


def _recipe(name: str) -> Recipe:
    module = discovery.load(sys.modules[__name__], name, "method")
    recipe = module.METHOD
    if not isinstance(recipe, Recipe):
        raise TypeError(f"METHOD of {module.__name__} is a {type(recipe).__name__}, expected a Recipe")
    return recipe
