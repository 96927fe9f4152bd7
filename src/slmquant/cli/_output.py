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

from slmquant.progress import Progress, Silent

PIPE_WIDTH = 200
"""Columns of a table where stdout is no terminal and COLUMNS is not set, so that none is lost."""


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


def print_json(value: object) -> None:
    """Write `value` as indented JSON to stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table; columns whose cells are all numbers are right-aligned."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index]]
        numeric = bool(cells) and all(cell.lstrip("~-+").replace(",", "")[:1].isdigit() for cell in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


class _Bar:
    """Shows a `Progress` as one Rich bar per phase, the current one last."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, phase: str, total: int | None) -> None:
        self._finish()
        self._task = self._bars.add_task(phase, total=total)

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
        TextColumn("{task.description}"),
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
