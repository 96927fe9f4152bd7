"""slmquant: quantize small language models, measure what it took away and what it cost, decide what to ship."""

from importlib.metadata import version as _version

__version__ = _version("slmquant")
