"""`slmquant check`: verify a result store, or a file of published cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import JsonOption, print_json, say, tell
from slmquant.cli._results import open_store


def command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Result stores (.sqlite), or files of published cells (.jsonl).",
            metavar="SOURCE...",
            show_default="SLMQUANT_STORE, else results/slmquant.sqlite",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Verify stores: the file is intact, every record is readable and its id is that of its settings, and accuracies,
    perplexities and mean divergences are those of the stored items.

    For example:

    [dim]slmquant check[/dim]

    [dim]slmquant check results/published/*.jsonl[/dim]
    """
    from slmquant.analysis.recount import complaints
    from slmquant.errors import StoreError
    from slmquant.store import default_store_path
    from slmquant.store.combine import JSON_LINES, cells

    wrong: list[dict[str, str]] = []
    count = 0
    for path in sources or [default_store_path()]:
        if path.suffix != JSON_LINES:
            with open_store(path) as results:
                wrong += [{"store": str(path), "what": line} for line in results.damage()]
        for record, items in cells([path]):
            count += 1
            for complaint in complaints(record, items):
                wrong.append(
                    {"store": str(path), "cell": record.cell_id, "label": record.spec.label, "what": complaint}
                )
    if json:
        print_json({"cells": count, "complaints": wrong})
    else:
        for line in wrong:
            cell = f"{line['label']} ({line['cell']}) " if "cell" in line else ""
            say(f"{line['store']}: {cell}{line['what']}")
    if wrong:
        raise StoreError(
            f"{len(wrong)} contradictions in {count} cells; measure these cells again, or restore a backup"
        )
    if not json:
        tell(f"{count} cells, all intact")
