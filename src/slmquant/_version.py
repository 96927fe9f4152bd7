"""The version of slmquant."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("slmquant")
