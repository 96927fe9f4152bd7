"""The command line: one file per command, listed in the order in which people need them."""

from slmquant.cli._app import app, main

__all__ = ["app", "main"]
