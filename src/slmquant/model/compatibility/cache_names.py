"""What transformers calls a key-value cache: `cache` in newer versions, `past_key_values` in older ones.

Some of its functions know one name and warn of the other, some say `past_key_values` still, so each is asked itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_NAMES = ("cache", "past_key_values")


def takes_cache(function: Callable[..., object]) -> bool:
    """Whether a model, or a function of it, takes a key-value cache."""
    return _name(function) is not None


def cache_argument(function: Callable[..., object], cache: object) -> dict[str, Any]:
    """`cache` under the name by which `function` takes it, as keyword arguments.

    Raises:
        TypeError: It takes none.
    """
    name = _name(function)
    if name is None:
        raise TypeError(f"{getattr(function, '__qualname__', function)} takes no key-value cache")
    return {name: cache}


def cache_of(output: object) -> Any:  # of whatever class the model makes
    """The key-value cache in what a model returned; None where it keeps none."""
    return next((found for name in _NAMES if (found := getattr(output, name, None)) is not None), None)


def _name(function: Callable[..., object]) -> str | None:
    parameters = inspect.signature(getattr(function, "forward", function)).parameters
    return next((name for name in _NAMES if name in parameters), None)
