"""`slmquant compare`: two cells side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from slmquant.cli._output import JsonOption, console, print_json
from slmquant.cli._results import StoreOption, open_store


def command(
    a: Annotated[str, typer.Argument(help="The cell to compare with: an id, its first digits, or method/scheme.")],
    b: Annotated[str, typer.Argument(help="The cell that is compared.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two cells, in pairs of the same items where their answers were kept.

    The verdict is on B. "indistinguishable" means that the two-sided p is 0.05 or more.

    For example:

    [dim]slmquant compare rtn/W4A16g64 gptq/W4A16g64[/dim]

    [dim]slmquant compare 3f9c 81ab --json[/dim]
    """
    from dataclasses import asdict

    from slmquant.analysis.compare import compare
    from slmquant.report.terminal import comparison_report

    with open_store(store) as results:
        first, second = results.get(a), results.get(b)
        differences = compare(first, second, results.items(first.cell_id), results.items(second.cell_id))
    if json:
        print_json({"a": first.cell_id, "b": second.cell_id, "differences": [asdict(one) for one in differences]})
    else:
        console.print(comparison_report(first, second, differences))
