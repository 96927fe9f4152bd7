"""Interface of engines that have their own OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from slmquant.engines.common.contract import OpenOptions

API_KEY = "SLMQUANT_API_KEY"
"""Environment variable with the API key that requests must carry; no key is required if it is empty."""


@runtime_checkable
class Serves(Protocol):
    """Optional engine capability: an OpenAI-compatible server, needed for `slmquant serve`."""

    def server(self, artifact: Path, host: str, port: int, options: OpenOptions) -> tuple[str, ...]:
        """The command line that serves `artifact` at `http://host:port/v1` until it is interrupted.

        The key is passed in the environment variable `API_KEY`, because command lines are visible to all users of a
        machine.

        Raises:
            UnavailableError: The engine is not usable here.
        """
        ...
