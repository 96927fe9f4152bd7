"""`slmquant mixture`: a type for every weight of a model, as a file: those of a scheme, or the best for some bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._calibration import CorpusOption, SamplesOption, SeedOption, SeqLenOption, calibration
from slmquant.cli._output import DataOption, OverwriteOption, QuietOption, progress_bar, say, tell

METHOD = "slmq"


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    scheme: Annotated[
        str | None, typer.Argument(help="Mixture or other scheme of weights, e.g. Q4_K_M or Q4_0E8.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")] = Path("mixture.json"),
    max_bytes: Annotated[
        str | None, typer.Option(help="Choose types so that the GGUF file takes at most this, e.g. 92MB.")
    ] = None,
    method: Annotated[str, typer.Option(help="Method that types are tried with, for --max-bytes.")] = METHOD,
    corpus: CorpusOption = None,
    samples: SamplesOption = 128,
    seq_len: SeqLenOption = 512,
    seed: SeedOption = 0,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a type for every weight of a model, for `--mixture`: those of a scheme, or the best for some bytes.

    With --max-bytes every weight is rounded to every type, what that costs is predicted and measured on text, and the
    types are chosen that cost least and fit. The file names every weight with its type and the reason; change what you
    like, then quantize or export with it.

    Examples:
        slmquant mixture smollm2-135m-instruct Q4_K_M -o mix.json

        slmquant mixture smollm2-135m-instruct --max-bytes 92MB -o mix.json

        slmquant export smollm2-135m-instruct --method slmq --mixture mix.json -o model.gguf
    """
    from slmquant.cache.upkeep import read_size
    from slmquant.cli._mixture import chosen_for
    from slmquant.errors import SchemeError
    from slmquant.files import check_output
    from slmquant.methods.common.mixed import described
    from slmquant.model.discovery.relations import discover
    from slmquant.model.sources.load import load
    from slmquant.schemes import parse
    from slmquant.schemes.mixture_file import write_mixture

    check_output(output, False, None, overwrite)
    if scheme is not None and max_bytes is not None:
        raise SchemeError(f"{scheme} and --max-bytes {max_bytes} both choose types; leave one out")
    if scheme is not None:
        numbers = parse(scheme)
        loaded = load(model)
        weights = described(numbers, discover(loaded.model), loaded.model)
        write_mixture(output, weights, model)
        if not quiet:
            types = sorted({kind.type for kind in weights.values()})
            say(f"wrote {output}: {len(weights)} weights, {', '.join(types)}")
        return
    if max_bytes is None:
        raise SchemeError("name a scheme, such as Q4_K_M, or give --max-bytes, such as 92MB")
    spec = calibration(corpus, samples, seq_len, seed, data)
    with progress_bar(quiet) as progress:
        choice = chosen_for(read_size(max_bytes, "--max-bytes"), model, method, spec, "fast", data, progress, quiet)
    write_mixture(output, choice.weights, model, choice.notes)
    for note in () if quiet else choice.notes:
        tell(note)
