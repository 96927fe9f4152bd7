"""`slmquant compare`: compare two cells."""

from __future__ import annotations

from typing import Annotated

import typer

from slmquant.cli._output import JsonOption, console, print_json, say
from slmquant.cli._results import MarginAccuracyOption, MarginNatsOption, StoreOption, open_store


def command(
    a: Annotated[str, typer.Argument(help="Baseline cell: an id, its first digits, or method/scheme.")],
    b: Annotated[str, typer.Argument(help="Cell to judge against A, written likewise.")],
    until_separated: Annotated[
        float | None,
        typer.Option(
            metavar="CONFIDENCE",
            help="Also print after how many items `bench --until-separated` would have stopped.",
        ),
    ] = None,
    margin_accuracy: MarginAccuracyOption = 0.02,
    margin_nats: MarginNatsOption = 0.01,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two cells, item by item if their answers are in the store.

    Tested are one accuracy per task, and the loss and mean divergence on each text. The verdict on B is "better" or
    "worse" if the two-sided p, corrected over these tests by Holm's method, is below 0.05; "equivalent" if the
    difference is shown to be smaller than the margin; otherwise "cannot tell", as the items are too few. Other figures
    are shown without a test. Flips are answers that turned from right to wrong (−) and from wrong to right (+). If the
    cells differ in compute dtype, device, engine or machine, a line says so, and which figures that affects.

    For example:

    [dim]slmquant compare rtn/W4A16g64 gptq/W4A16g64[/dim]

    [dim]slmquant compare 3f9c 81ab --json[/dim]

    [dim]slmquant compare 3f9c 81ab --until-separated 0.95[/dim]
    """
    from dataclasses import asdict

    from slmquant.analysis.compare import compare
    from slmquant.analysis.endpoints import Margins
    from slmquant.analysis.separation import early_stops
    from slmquant.analysis.unlike import unlike, unlike_words
    from slmquant.report.comparison import comparison_report

    if until_separated is not None and not 0.5 < until_separated < 1:
        raise typer.BadParameter(
            f"confidence is {until_separated}; expected more than 0.5 and less than 1, such as 0.95",
            param_hint="--until-separated",
        )
    with open_store(store) as results:
        first, second = results.get(a), results.get(b)
        items = results.items(first.cell_id), results.items(second.cell_id)
    differences = compare(first, second, *items, Margins(margin_accuracy, margin_nats))
    stops = [] if until_separated is None else early_stops(*items, until_separated)
    if json:
        content = {
            "a": first.cell_id, "b": second.cell_id,
            "unlike": unlike(first, second), "unlike_means": unlike_words(first, second),
            "differences": [one.as_json() for one in differences],
        }  # fmt: skip
        print_json(content if until_separated is None else content | {"early_stops": [asdict(one) for one in stops]})
        return
    console.print(comparison_report(first, second, differences))
    for stop in stops:
        say(str(stop))
