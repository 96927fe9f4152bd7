"""`slmquant show`: show everything stored about one cell."""

from __future__ import annotations

from typing import Annotated

import typer

from slmquant.cli._output import JsonOption, console, print_json, say
from slmquant.cli._results import StoreOption, open_store


def command(
    cell: Annotated[str, typer.Argument(help="Cell id, its first digits, or method/scheme.", metavar="CELL")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show one cell: its settings, results and cost, its data and machine.

    For example:

    [dim]slmquant show 3f9c[/dim]

    [dim]slmquant show gptq/W4A16g64[/dim]

    [dim]slmquant show gptq/W4A16g64 --json[/dim]
    """
    from slmquant.report.terminal import record_report
    from slmquant.store.logs import log_of

    with open_store(store) as results:
        record = results.get(cell)
        others = results.records(model=record.spec.model)
    if json:
        print_json({"cell_id": record.cell_id, **record.model_dump(mode="json")})
    else:
        console.print(record_report(record, others))
        log = log_of(results.path, record.cell_id)
        if log.exists():
            say(f"log: {log}")
