"""`slmquant mixture`: write the types that a scheme gives to each weight of a model as a file to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import OverwriteOption, QuietOption, say


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    scheme: Annotated[str, typer.Argument(help="Mixture or other scheme of weights, e.g. Q4_K_M or Q4_0E8.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the number format that a scheme gives to each weight of a model, for `--mixture`.

    The file names every weight with its type and the reason; change what you like, then quantize or export with it.

    Examples:
        slmquant mixture smollm2-135m-instruct Q4_K_M -o mix.json

        slmquant export smollm2-135m-instruct --method gptq_mse --mixture mix.json -o model.gguf
    """
    from slmquant.files import check_output
    from slmquant.methods.common.mixed import described
    from slmquant.model.discovery.relations import discover
    from slmquant.model.sources.load import load
    from slmquant.schemes import parse
    from slmquant.schemes.mixture_file import write_mixture

    check_output(output, False, None, overwrite)
    numbers = parse(scheme)
    loaded = load(model)
    weights = described(numbers, discover(loaded.model), loaded.model)
    write_mixture(output, weights, model)
    if not quiet:
        types = sorted({kind.type for kind in weights.values()})
        say(f"wrote {output}: {len(weights)} weights, {', '.join(types)}")
