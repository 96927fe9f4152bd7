"""The Typer application, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

import typer
from rich.markup import escape

from slmquant.cli._output import err_console
from slmquant.errors import SlmquantError

COMMANDS = {
    "Do": ("bench", "quantize", "export", "bench-engine", "chat", "serve"),
    "Find out": ("models", "methods", "schemes", "tasks", "engines"),
    "Get": ("pull",),
    "Read results": ("list", "show", "compare", "report"),
}
"""Panel → commands; the command `x-y` is the function `command` of `slmquant.cli.x_y`."""

EXIT_CODES = """\b
Exit codes: 0 all went well · 1 error · 2 a name or argument is wrong · 3 the combination is refused
· 4 the model cannot be used · 5 a download failed · 6 data is missing · 7 numbers stopped being finite
· 8 the store cannot be used · 9 a bench ended with failed cells · 130 interrupted
"""

app = typer.Typer(
    name="slmquant",
    help="Quantize small language models, measure what it took away and what it cost, decide what to ship.\n\n"
    "Start with: [bold]slmquant pull smollm2-135m-instruct[/bold], then "
    "[bold]slmquant bench smollm2-135m-instruct --suite demo[/bold].",
    epilog=EXIT_CODES,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from slmquant import __version__

        sys.stdout.write(f"slmquant {__version__}\n")
        raise typer.Exit


for _panel, _names in COMMANDS.items():
    for _name in _names:
        _function = import_module(f"slmquant.cli.{_name.replace('-', '_')}").command
        app.command(_name, rich_help_panel=_panel)(_function)


def main() -> NoReturn:
    """Run the application; an `SlmquantError` ends it with one line and the error's exit code.

    A request to end (SIGTERM) is an interruption like Ctrl-C: what is finished is kept, scratch files go.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except SlmquantError as error:
        err_console.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
