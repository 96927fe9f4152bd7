"""Where commands print: tables for people on stdout, JSON for programs on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
"""Columns of a table where stdout is no terminal and COLUMNS is not set, so that none is lost."""


def _hold_streams() -> None:
    """Where a stream was closed (`>&-`), give what is printed nowhere to go, and its number to no other file."""
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
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no remarks.")]

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file or folder that is there already.")]

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="A local folder of data, tried first.", show_default="SLMQUANT_DATA"),
]


def shown(text: object) -> str:
    """A path, or a name that somebody else chose, as markup that prints it just as it is.

    Square brackets in it are no markup, and a terminal obeys nothing in it.
    """
    return escape(printable(str(text)))


def tell(text: str) -> None:
    """Print a remark on stderr, wrapped by the terminal alone; nothing in it is markup."""
    err_console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def say(text: str, end: str = "\n") -> None:
    """The same on stdout; line ends and tabs in `text` stay."""
    console.print(printable(text, keep="\n\t"), highlight=False, markup=False, soft_wrap=True, end=end)


def print_json(value: object) -> None:
    """Write `value` as indented JSON to stdout, and nothing else."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    sys.stdout.write(text.encode("utf-8", "replace").decode("utf-8"))  # a path may hold half a character


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table; columns whose cells are all numbers are right-aligned."""
    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(cell.lstrip("~-+").replace(",", "")[:1].isdigit() for cell in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, keep="\n")) for cell in row))
    console.print(table)


class _Bar:
    """Shows a `Progress` as one Rich bar per phase, the current one last."""

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
    """A progress listener that draws on stderr with the time left; silent when asked or when stderr is a file."""
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
