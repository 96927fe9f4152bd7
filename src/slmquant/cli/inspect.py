"""`slmquant inspect`: what a model is made of, and what its weights and activations look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.bounds import LONGEST_WINDOW, MOST_SAMPLES, SHORTEST_WINDOW
from slmquant.cli._calibration import CorpusOption, SeedOption
from slmquant.cli._output import (
    DataOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    print_pieces,
    print_table,
    progress_bar,
    say,
    tell,
)
from slmquant.inspection.defaults import SCHEMES, WINDOW_TOKENS, WINDOWS

_LONG = "tensors"


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    scheme: Annotated[
        list[str] | None,
        typer.Option("--scheme", help="Scheme to show sizes for; may be repeated.", show_default=", ".join(SCHEMES)),
    ] = None,
    anatomy: Annotated[bool, typer.Option("--anatomy", help="Show structure and sizes only; reads no text.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Also print a row for every weight.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write: a page with plots, and the data as JSON.")
    ] = None,
    corpus: CorpusOption = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=MOST_SAMPLES, help="Windows of text.")] = WINDOWS,
    seq_len: Annotated[
        int, typer.Option("--seq-len", min=SHORTEST_WINDOW, max=LONGEST_WINDOW, help="Tokens per window.")
    ] = WINDOW_TOKENS,
    seed: SeedOption = 0,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a model is made of, and what its weights and activations look like.

    Structure, and parameters and bytes by role under each scheme; of every weight its kurtosis, range and outlier
    columns, and whether it already lies on a quantization grid; of a short text's activations the outlier channels and
    tokens, massive activations, attention on the first token, and effective rank.

    Examples:
        slmquant inspect smollm2-135m-instruct

        slmquant inspect smollm2-135m-instruct --scheme Q4_K_M --scheme W4A16g64E8 --anatomy

        slmquant inspect smollm2-135m-instruct -o inspected --json
    """
    from slmquant import api
    from slmquant.cli._calibration import calibration
    from slmquant.files import check_output
    from slmquant.report.inspected import sentences, tables_of, write_inspection, written_before

    if output is not None:
        check_output(output, True, written_before, overwrite)
    with progress_bar(quiet) as progress:
        found = api.inspect(
            model,
            schemes=scheme or SCHEMES,
            text=None if anatomy else calibration(corpus, samples, seq_len, seed, data),
            anatomy_only=anatomy,
            data_dir=data,
            progress=progress,
        )
    if output is not None:
        for path in write_inspection(found, output):
            if not quiet:
                tell(f"wrote {path}")
    if json:
        print_pieces([found.model_dump_json(indent=2)])
        return
    for sentence in sentences(found):
        say(sentence)
    for key, table in tables_of(found).items():
        if key != _LONG or tensors:
            say("")
            print_table(table.title, table.heads, table.rows)
