"""Options of commands that measure divergences on windows of text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.bounds import LONGEST_WINDOW, MOST_ITEMS, SHORTEST_WINDOW

TextsOption = Annotated[
    str | None,
    typer.Option(
        "--texts",
        help="Comma-separated corpora to measure on.",
        show_default="WikiText-2's test split and C4, if available",
    ),
]
WindowsOption = Annotated[int, typer.Option("--windows", min=4, max=MOST_ITEMS, help="Windows of each corpus.")]
LengthOption = Annotated[
    int, typer.Option("--length", min=SHORTEST_WINDOW, max=LONGEST_WINDOW, help="Tokens per window.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write all measurements to this JSON file.")
]
