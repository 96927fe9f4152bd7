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
        Path | None,
        typer.Option("--output", "-o", help="Store (.sqlite), JSON lines (.jsonl) or table (.parquet) to write."),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option("--mlflow", help="MLflow tracking server to log cells to: its URL.", metavar="URI"),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Combine the cells of several stores into one, or write them as JSON lines, Parquet or runs of MLflow.

    Of several records of one cell, a finished one is kept before a failed one, then the latest. An existing store
    keeps its own cells by the same rule; other existing files need --overwrite.

    In MLflow each cell is a run of the experiment slmquant (or MLFLOW_EXPERIMENT_NAME); cells that are there already
    are not logged again.

    For example:

    [dim]slmquant merge laptop.sqlite server.sqlite -o all.sqlite[/dim]

    [dim]slmquant merge results/slmquant.sqlite -o cells.parquet[/dim]

    [dim]slmquant merge results/slmquant.sqlite --mlflow http://localhost:5000[/dim]
    """
    if output is None and not mlflow:
        raise typer.BadParameter("say where to write: --output FILE or --mlflow URI", param_hint="slmquant merge")
    if output is not None:
        _write(sources, output, overwrite)
    if mlflow:
        _log(sources, mlflow)


def _write(sources: list[Path], output: Path, overwrite: bool) -> None:
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


def _log(sources: list[Path], uri: str) -> None:
    from slmquant.store.combine import best_cells
    from slmquant.store.to_mlflow import log_cells

    chosen, _ = best_cells(sources)
    done = log_cells([record for record, _ in chosen], uri)
    tell(f"MLflow experiment {done.experiment} at {uri}: {done.added} cells logged, {done.there} there already")
