"""Engines that bring an OpenAI-compatible server of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from slmquant.engines.common.contract import OpenOptions

API_KEY = "SLMQUANT_API_KEY"
"""The environment variable in which a server finds the key that requests must carry; none where it is empty."""


@runtime_checkable
class Serves(Protocol):
    """What an engine has besides `Engine` where it can be served; without it, `slmquant serve` says that it cannot."""

    def server(self, artifact: Path, host: str, port: int, options: OpenOptions) -> tuple[str, ...]:
        """The command line that serves `artifact` under `http://host:port/v1` until it is interrupted.

        The key is no part of it, since every user of a machine can read command lines: it lies in `API_KEY`.

        Raises:
            UnavailableError: The engine is not usable here.
        """
        ...
