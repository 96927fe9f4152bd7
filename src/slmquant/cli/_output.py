"""Output of commands: tables or JSON on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from slmquant.boundary import printable
from slmquant.progress import Progress, Silent

PIPE_WIDTH = 200
"""Width of tables, in characters, when stdout is no terminal and COLUMNS is not set."""


def _hold_streams() -> None:
    """Open closed standard streams (`>&-`) on the null device, so that no other file gets their numbers."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(handle)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115


_hold_streams()


def _console() -> Console:
    piped = not Console().is_terminal and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH) if piped else Console()


console = _console()
err_console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress bars and no remarks.")]

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file or folder.")]

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Local folder of data, tried first.", show_default="SLMQUANT_DATA"),
]


def shown(text: object) -> str:
    """Escape a path or foreign name for Rich, so that it prints literally.

    Square brackets are not read as markup, and control characters do not reach the terminal.
    """
    return escape(printable(str(text)))


def tell(text: str) -> None:
    """Print a remark on stderr, literally; only the terminal wraps it."""
    err_console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def say(text: str, end: str = "\n") -> None:
    """Print `text` on stdout, literally, with its line ends and tabs."""
    console.print(printable(text, keep="\n\t"), highlight=False, markup=False, soft_wrap=True, end=end)


def print_json(value: object) -> None:
    """Write `value` to stdout as indented JSON."""
    print_pieces([json.dumps(value, indent=2, ensure_ascii=False, default=str)])


def print_pieces(pieces: Iterable[str]) -> None:
    """Write the pieces of a text and a line end to stdout, as they are."""
    for piece in chain(pieces, ["\n"]):
        sys.stdout.write(piece.encode("utf-8", "replace").decode("utf-8"))  # a path may hold a lone surrogate


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table; columns of numbers are right-aligned."""
    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(cell.lstrip("~-+").replace(",", "")[:1].isdigit() for cell in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, keep="\n")) for cell in row))
    console.print(table)


class _Bar:
    """Shows progress as one Rich bar, replaced at each phase."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, phase: str, total: int | None) -> None:
        self._finish()
        self._task = self._bars.add_task(printable(phase), total=total)

    def advance(self, steps: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on stderr with the time left; silent if `quiet` or if stderr is no terminal."""
    if quiet or not err_console.is_terminal:
        yield Silent()
        return
    bars = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err_console,
        transient=True,
    )
    with bars:
        yield _Bar(bars)
