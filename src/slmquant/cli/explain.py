"""`slmquant explain`: where the divergence of one cell comes from, and where it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._experiments import LengthOption, OutputOption, TextsOption, WindowsOption
from slmquant.cli._names import split_names
from slmquant.cli._output import (
    DataOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    print_json,
    print_table,
    progress_bar,
    say,
)
from slmquant.cli._results import StoreOption, open_store

if TYPE_CHECKING:
    from slmquant.store.record import CellSpec


def command(
    cell: Annotated[str, typer.Argument(help="Cell of the store: its id, first digits, or method/scheme; or a model.")],
    method: Annotated[str | None, typer.Option("--method", help="Method, if CELL is a model.")] = None,
    scheme: Annotated[str | None, typer.Option("--scheme", help="Scheme, if CELL is a model.")] = None,
    texts: TextsOption = None,
    windows: WindowsOption = 6,
    length: LengthOption = 512,
    store: StoreOption = None,
    data: DataOption = None,
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show where the divergence of a quantized model comes from, and where in the text it shows.

    The model is quantized again. Each part of it is rounded alone, and given back while all others are rounded:
    weights, activations, cache and embeddings; each class of linears; each eighth of the blocks. The sums over parts
    say how far errors add up. Predictions are divided by the token read last, by position, and by how sure full
    precision was; the ten that diverge most are shown as text.

    Examples:
        slmquant explain gptq/W4A16g64

        slmquant explain smollm2-135m-instruct --method rtn --scheme W8A8
    """
    from slmquant import api
    from slmquant.files import atomic_file, check_output
    from slmquant.report.explanation import explanation_tables, headline

    if output is not None:
        check_output(output, False, None, overwrite)
    spec = _spec(cell, method, scheme, store)
    with progress_bar(quiet) as progress:
        found = api.explain(
            spec,
            texts=None if texts is None else split_names(texts),
            windows=windows,
            length=length,
            data_dir=data,
            progress=progress,
        )
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if json:
        print_json(found.model_dump(mode="json"))
    elif not quiet:
        say(headline(found))
        for table in explanation_tables(found):
            print_table(table.title, table.heads, table.rows)


def _spec(cell: str, method: str | None, scheme: str | None, store: Path | None) -> CellSpec | tuple[str, str, str]:
    """The cell of the store; or model, method and scheme."""
    if method is None and scheme is None:
        with open_store(store) as results:
            return results.get(cell).spec
    if method is None or scheme is None:
        raise typer.BadParameter("a model needs both --method and --scheme; a cell of the store needs neither")
    return cell, method, scheme
