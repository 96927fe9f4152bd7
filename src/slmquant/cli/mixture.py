"""`slmquant mixture`: a type for every weight of a model, as a file: those of a scheme, or the best for some bytes."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._calibration import (
    Budget,
    BudgetOption,
    CorpusOption,
    SamplesOption,
    SeedOption,
    SeqLenOption,
    calibration,
)
from slmquant.cli._output import (
    DataOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    print_json,
    progress_bar,
    say,
    tell,
)

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
    min_tokens_per_second: Annotated[
        float | None,
        typer.Option(help="With --max-bytes: fewest tokens per second that llama.cpp decodes here, as predicted."),
    ] = None,
    method: Annotated[str, typer.Option(help="Method that types are tried with, for --max-bytes.")] = METHOD,
    corpus: CorpusOption = None,
    samples: SamplesOption = 128,
    seq_len: SeqLenOption = 512,
    seed: SeedOption = 0,
    budget: BudgetOption = Budget.FAST,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a type for every weight of a model, for `--mixture`: those of a scheme, or the best for some bytes.

    With --max-bytes every weight is rounded to every type, what that costs is predicted and measured on text, and the
    types are chosen that cost least and fit. The file names every weight with its type and the reason; change what you
    like, then quantize or export with it.

    With --min-tokens-per-second, files of each type are timed in llama.cpp on this machine (once), and the front of
    bytes, speed and divergence is printed as well.

    Examples:
        slmquant mixture smollm2-135m-instruct Q4_K_M -o mix.json

        slmquant mixture smollm2-135m-instruct --max-bytes 92MB -o mix.json

        slmquant mixture smollm2-135m-instruct --max-bytes 92MB --min-tokens-per-second 40 -o fast.json

        slmquant export smollm2-135m-instruct --method slmq --mixture mix.json -o model.gguf
    """
    from slmquant.cache.upkeep import read_size
    from slmquant.cli._mixture import chosen_for, facts
    from slmquant.errors import SchemeError
    from slmquant.files import check_output
    from slmquant.measuring.decode_costs import decode_costs
    from slmquant.methods.common.mixed import described
    from slmquant.mixing.front import Speed
    from slmquant.model.discovery.relations import discover
    from slmquant.model.sources.load import load
    from slmquant.schemes import parse
    from slmquant.schemes.mixture_file import write_mixture

    check_output(output, False, None, overwrite)
    if scheme is not None and max_bytes is not None:
        raise SchemeError(f"{scheme} and --max-bytes {max_bytes} both choose types; leave one out")
    if min_tokens_per_second is not None and (max_bytes is None or not 0 < min_tokens_per_second < math.inf):
        raise typer.BadParameter(
            f"{min_tokens_per_second:g} is a speed for types that --max-bytes chooses; give both, and more than 0",
            param_hint="--min-tokens-per-second",
        )
    if scheme is not None:
        numbers = parse(scheme)
        loaded = load(model)
        weights = described(numbers, discover(loaded.model), loaded.model)
        write_mixture(output, weights, model)
        if json:
            print_json({"path": str(output), "types": {name: kind.type for name, kind in weights.items()}})
        elif not quiet:
            types = sorted({kind.type for kind in weights.values()})
            say(f"wrote {output}: {len(weights)} weights, {', '.join(types)}")
        return
    if max_bytes is None:
        raise SchemeError("name a scheme, such as Q4_K_M, or give --max-bytes, such as 92MB")
    spec = calibration(corpus, samples, seq_len, seed, data)
    size, least = read_size(max_bytes, "--max-bytes"), min_tokens_per_second
    with progress_bar(quiet) as progress:
        speed = None if least is None else Speed(least, partial(decode_costs, model, method, budget.value, progress))
        choice = chosen_for(size, model, method, spec, budget.value, data, progress, quiet or json, speed)
    write_mixture(output, choice.weights, model, choice.notes)
    if json:
        print_json({"path": str(output), **facts(choice)})
    for note in () if quiet or json else choice.notes:
        tell(note)
