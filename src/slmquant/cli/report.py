"""`slmquant report`: show results as a table, files and a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import JsonOption, QuietOption, console, print_json, tell
from slmquant.cli._results import (
    CostPerHourOption,
    MarginAccuracyOption,
    MarginNatsOption,
    ModelOption,
    StoreOption,
    filters,
    open_store,
)

if TYPE_CHECKING:
    from slmquant.store import Record


class Expectation(str, Enum):
    """Order of the mean over models and the square in a score."""

    MEAN_THEN_SQUARE = "mean_then_square"
    SQUARE_THEN_MEAN = "square_then_mean"


FORMATS = ("table", "csv", "json", "html")


def command(
    store: StoreOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report's files.")] = Path(
        "results/report"
    ),
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Output: table, csv, json or html; may be repeated.", show_default="all"),
    ] = None,
    model: ModelOption = None,
    expectation: Annotated[
        Expectation, typer.Option(help="Order of mean over models and square in the scores.")
    ] = Expectation.MEAN_THEN_SQUARE,
    perplexity: Annotated[
        bool, typer.Option("--perplexity/--no-perplexity", help="Include perplexity as a data set of SLMQ_perf.")
    ] = True,
    consumption_reference: Annotated[str, typer.Option(help="Method whose SLMQ_cons is set to 100.")] = "rtn",
    json: JsonOption = False,
    margin_accuracy: MarginAccuracyOption = 0.02,
    margin_nats: MarginNatsOption = 0.01,
    cost_per_hour: CostPerHourOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print results as a table and write them as CSV, JSON and one HTML page.

    For example:

    [dim]slmquant report[/dim]

    [dim]slmquant report --format table[/dim]

    [dim]slmquant report -o public --format html --model smollm2-135m-instruct[/dim]
    """
    from slmquant.analysis.endpoints import Margins
    from slmquant.analysis.scores import ScoreOptions
    from slmquant.errors import StoreError, UnknownNameError
    from slmquant.report.files import as_json, write_report_csv, write_report_json
    from slmquant.report.page import write_page
    from slmquant.report.terminal import print_report

    chosen = formats or list(FORMATS)
    for name in chosen:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    with open_store(store) as results:
        records = results.records(**filters(results, model=model))
        answers = {record.cell_id: results.items(record.cell_id) for record in records}
    if not records:
        raise StoreError(f"{results.path} holds no cells yet; run `slmquant bench` first")
    measured = {record.spec.method for record in records}
    if consumption_reference not in {"rtn", *measured}:
        raise UnknownNameError("measured method", consumption_reference, measured)
    margins = Margins(margin_accuracy, margin_nats)
    options = ScoreOptions(expectation.value, perplexity, consumption_reference, cost_per_hour=cost_per_hour)
    if json:
        print_json(as_json(records, options, answers))
    elif "table" in chosen:
        print_report(records, console, options, answers, margins)
    writers: dict[str, Callable[[Sequence[Record], Path], Path]] = {
        "csv": write_report_csv,
        "json": partial(write_report_json, options=options, answers=answers),
        "html": partial(write_page, options=options, answers=answers, margins=margins),
    }
    for name, write in writers.items():
        if name in chosen:
            path = write(records, output)
            if not quiet:
                tell(f"wrote {path}")
