"""The Typer application; turns every error into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import typer

from slmquant import interruption
from slmquant.boundary import is_memory, is_space, reason, save_traceback
from slmquant.cli._output import err_console, shown
from slmquant.errors import INTERRUPTED, OutputError, PlanError, SlmquantError, SpaceError
from slmquant.files import cache_dir

DEBUG = "SLMQUANT_DEBUG"
_VARIABLES = ("SLMQUANT_CACHE", "SLMQUANT_CACHE_LIMIT", "SLMQUANT_DATA", "SLMQUANT_STORE")

COMMANDS = {
    "Quantize and measure": (
        "bench",
        "plan",
        "recommend",
        "quantize",
        "export",
        "inspect",
        "sensitivity",
        "mixture",
        "questions",
        "explain",
        "lab",
        "ladder",
        "bench-engine",
        "chat",
        "serve",
    ),
    "List what is available": ("models", "methods", "schemes", "tasks", "engines"),
    "Download": ("pull",),
    "Read results": ("list", "show", "compare", "report", "principles"),
    "Keep results": ("merge", "check", "repeat", "cache"),
}
"""Panel → commands; `x-y` is the function `command` of `slmquant.cli.x_y`, or its `group` of commands."""

EXIT_CODES = """\b
Exit codes: 0 success · 1 error · 2 unknown name or invalid argument · 3 combination refused
· 4 model cannot be used · 5 download failed · 6 data missing · 7 a number was not finite
· 8 store cannot be used · 9 bench finished with failed cells · 10 disk full · 130 interrupted
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
def _global(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Also print the traceback of an error (or set SLMQUANT_DEBUG)."),
) -> None:
    if debug:
        os.environ[DEBUG] = "1"
    if version:
        from slmquant._version import __version__

        sys.stdout.write(f"slmquant {__version__}\n")
        raise typer.Exit


for _panel, _names in COMMANDS.items():
    for _name in _names:
        _module = import_module(f"slmquant.cli.{_name.replace('-', '_')}")
        if hasattr(_module, "group"):
            app.add_typer(_module.group, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_module.command)


def main() -> NoReturn:
    """Run the application and exit.

    SIGTERM and a closed terminal are handled like Ctrl-C: finished work is kept, scratch files are removed.
    """
    interruption.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # some terminals' encodings lack characters
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; no exception escapes.

    An `SlmquantError` becomes one line (a `PlanError` one for each thing that is wrong) and its own exit code. Any
    other exception is a bug: its traceback is saved, and it becomes one line and exit code 1. With `--debug`, or
    `SLMQUANT_DEBUG` set, the traceback is also printed.

    Args:
        arguments: Words after `slmquant`; by default those of this process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _check_text(words)
        with interruption.recognised():
            app(args=words, prog_name="slmquant")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SlmquantError as error:
        code = _told(str(error), error, error.exit_code)
    except MemoryError as error:
        code = _told(f"not enough memory ({reason(error)}); free some, or use a smaller model", error, 1)
    except Exception as error:  # noqa: BLE001  # the last resort
        code = _unforeseen(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        # otherwise Python would flush again at exit, and fail
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        if error.errno != errno.EPIPE:  # `| head` closing the pipe is no error
            code = _told(f"cannot write the output: {reason(error)}", error, SpaceError.exit_code)
    return code


def _check_text(words: Sequence[str]) -> None:
    """Refuse arguments that are not text, as they would be written into rows, JSON and manifests, which are UTF-8.

    Raises:
        OutputError: An argument, or a variable of slmquant, holds bytes outside the locale's encoding.
    """
    texts = {f"word {place} of the command line": word for place, word in enumerate(words, start=1)}
    texts |= {f"the variable {name}": os.environ.get(name, "") for name in _VARIABLES}
    for what, word in texts.items():
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            encoding = sys.getfilesystemencoding()
            remedy = "" if encoding == "utf-8" else ", or set PYTHONUTF8=1"
            message = f"{what}, {word}, is not text in {encoding}; rename that file or folder{remedy}"
            raise OutputError(message) from None


def _told(text: str, error: BaseException, code: int) -> int:
    """Print an error as one line; returns the exit code."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    with contextlib.suppress(OSError):  # standard error may be full or closed; the exit code remains
        lines = "\n".join(map(shown, error.lines)) if isinstance(error, PlanError) else shown(text)
        err_console.print(f"[bold red]error:[/bold red] {lines}", highlight=False, soft_wrap=True)
    return code


def _unforeseen(error: Exception) -> int:
    """Report an unexpected exception and where its traceback was saved."""
    if is_memory(error):
        return _told(f"not enough memory ({reason(error)}); free some, or use a smaller model", error, 1)
    if is_space(error):
        return _told(f"no space left on a disk ({reason(error)}); free some", error, SpaceError.exit_code)
    saved = save_traceback(error, cache_dir() / "errors")
    where = f"traceback saved in {saved}" if saved is not None else f"run again with {DEBUG}=1 to see the traceback"
    text = f"unexpected error, a bug in slmquant: {type(error).__name__}: {reason(error)}; {where}"
    return _told(text, error, 1)
