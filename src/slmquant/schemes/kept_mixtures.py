"""Mixtures that were chosen weight by weight, kept in the cache, so that their names can be read on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping

from slmquant.boundary import or_none
from slmquant.cache.entries import get
from slmquant.cache.write import About, put
from slmquant.files import cache_dir

KIND = "mixtures"
"""Their kind of entries in the cache."""


def keep_mixture(name: str, model: str, types: Mapping[str, str]) -> None:
    """Keep a mixture.

    Args:
        name: Its name, which has a hash of its content.
        model: The model that it is of.
        types: Weight → scheme name of its storage.

    Raises:
        OutputError, SpaceError: The cache cannot be written.
    """
    put(cache_dir() / KIND / name, About(model, "types chosen weight by weight"), json.dumps(dict(types)).encode())


def kept_mixture(name: str) -> dict[str, str] | None:
    """Weight → scheme name of its storage; None if no such mixture is kept, or it was damaged."""
    content = get(cache_dir() / KIND / name)
    types = None if content is None else or_none(lambda: json.loads(content))
    return types if isinstance(types, dict) else None
