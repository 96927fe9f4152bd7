"""`slmquant merge`: combine result stores, or export them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import OverwriteOption, tell


def command(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Result stores (.sqlite), or files of published cells (.jsonl).", metavar="SOURCE..."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Store (.sqlite), JSON lines (.jsonl) or table (.parquet) to write.")
    ],
    overwrite: OverwriteOption = False,
) -> None:
    """Combine the cells of several stores into one, or write them as JSON lines or Parquet.

    Of several records of one cell, a finished one is kept before a failed one, then the latest. An existing store
    keeps its own cells by the same rule; other existing files need --overwrite.

    For example:

    [dim]slmquant merge laptop.sqlite server.sqlite -o all.sqlite[/dim]

    [dim]slmquant merge results/slmquant.sqlite -o cells.parquet[/dim]
    """
    from slmquant.errors import OutputError
    from slmquant.files import check_output
    from slmquant.store.combine import STORES, combine

    if output.suffix not in STORES:
        check_output(output, folder=False, overwrite=overwrite)
    if any(source.resolve() == output.resolve() for source in sources):
        raise OutputError(f"output {output} is also a source; leave it out of the sources, it keeps its own cells")
    done = combine(sources, output)
    counts = [f"{done.added} added", f"{done.replaced} replaced", f"{done.repeated} there already or older"]
    tell(f"{output} has {done.cells} cells ({', '.join(counts)})")
