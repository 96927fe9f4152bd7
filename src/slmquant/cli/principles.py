"""`slmquant principles`: what measured cells say about rules of quantization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import JsonOption, console, print_json, tell


def command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|FILE]...",
            help="Principles to show in full, and stores or files of published cells to test on.",
            show_default="every principle; SLMQUANT_STORE, else results/slmquant.sqlite",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Test principles, rules such as "8-bit weights are safe", on measured cells, and show what follows from them.

    Each principle predicts on which side of a margin an effect lies, in every model. An effect is the mean of paired
    differences between matched cells, window by window. A principle holds in a model if the effect is told apart from
    the margin on the predicted side, and fails if on the other; p-values are corrected by Holm over all principles and
    models. Over the models it fails if it fails in one, and holds if it holds in one and fails in none.

    For example:

    [dim]slmquant principles[/dim]

    [dim]slmquant principles results/published/*.jsonl[/dim]

    [dim]slmquant principles smoothing results/published/*.jsonl[/dim]
    """
    from slmquant import principles
    from slmquant.errors import StoreError
    from slmquant.report.principles import principle_report, principles_table
    from slmquant.store import default_store_path
    from slmquant.store.combine import opened

    names, files = _told_apart(what or ())
    known = principles.names()
    for name in names:
        principles.load(name)  # an unknown name ends here, before anything is read
    sources = files or [default_store_path()]
    with opened(sources) as (records, read_items):
        if not records:
            raise StoreError(f"{', '.join(map(str, sources))} holds no cells; run `slmquant bench` first")
        judged = principles.judged(records, read_items)
    chosen = [one for one in judged if one.name in (names or known)]
    if json:
        print_json([one.as_json() for one in chosen])
    elif names:
        for one in chosen:
            console.print(principle_report(one))
    else:
        console.print(principles_table(chosen))
        tell("`slmquant principles NAME` shows the evidence of one, what is missing, and what follows")


def _told_apart(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """(names of principles, files): a file has an ending of one, or a folder before its name."""
    from slmquant.store.combine import JSON_LINES, STORES

    files = [word for word in words if Path(word).suffix in (JSON_LINES, *STORES) or Path(word).parent != Path()]
    return [word for word in words if word not in files], [Path(word) for word in files]
