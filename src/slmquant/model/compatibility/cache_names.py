"""Argument name of the key-value cache in transformers: `cache` in newer versions, `past_key_values` in older ones.

Some functions accept one name and warn about the other, some still use `past_key_values`, so the signature of each
function is inspected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_NAMES = ("cache", "past_key_values")


def takes_cache(function: Callable[..., object]) -> bool:
    """Whether a model, or one of its functions, accepts a key-value cache."""
    return _name(function) is not None


def cache_argument(function: Callable[..., object], cache: object) -> dict[str, Any]:
    """Keyword arguments that pass `cache` to `function`, under the name that it accepts.

    Raises:
        TypeError: `function` accepts no cache.
    """
    name = _name(function)
    if name is None:
        raise TypeError(f"{getattr(function, '__qualname__', function)} accepts no key-value cache")
    return {name: cache}


def cache_of(output: object) -> Any:  # of whatever class the model makes
    """The key-value cache in a model's output; None if it has none."""
    return next((found for name in _NAMES if (found := getattr(output, name, None)) is not None), None)


def _name(function: Callable[..., object]) -> str | None:
    parameters = inspect.signature(getattr(function, "forward", function)).parameters
    return next((name for name in _NAMES if name in parameters), None)
