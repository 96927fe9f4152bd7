"""Mixtures that were chosen weight by weight, kept in the cache, so that their names can be read on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

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
    put(entry_of(name), About(model, "types chosen weight by weight"), json.dumps(dict(types)).encode())


def entry_of(name: str) -> Path:
    """Its entry of the cache, whether it is kept or not."""
    return cache_dir() / KIND / name


def kept_mixture(name: str) -> dict[str, str] | None:
    """Weight → scheme name of its storage; None if no such mixture is kept, or it was damaged."""
    content = get(entry_of(name))
    types = None if content is None else or_none(lambda: json.loads(content))
    return types if isinstance(types, dict) else None
