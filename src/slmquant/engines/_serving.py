"""Engines that bring an OpenAI-compatible server of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from slmquant.engines._base import OpenOptions


@runtime_checkable
class Serves(Protocol):
    """What an engine has besides `Engine` where it can be served; without it, `slmquant serve` says that it cannot."""

    def server(self, artifact: Path, host: str, port: int, options: OpenOptions) -> tuple[str, ...]:
        """The command line that serves `artifact` under `http://host:port/v1` until it is interrupted.

        Raises:
            UnavailableError: The engine is not usable here.
        """
        ...
