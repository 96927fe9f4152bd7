"""`slmquant quantize`: quantize one model and write it to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._calibration import (
    Budget,
    BudgetOption,
    CorpusOption,
    MixtureOption,
    SamplesOption,
    SeedOption,
    SeqLenOption,
    calibration,
    chosen_scheme,
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

SCHEME = "W4A16g64"


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    method: Annotated[str, typer.Option(help="Method, or combination a+b.")] = "gptq",
    scheme: Annotated[
        str | None, typer.Option(help="Scheme name; see `slmquant schemes`.", show_default=SCHEME)
    ] = None,
    mixture: MixtureOption = None,
    corpus: CorpusOption = None,
    samples: SamplesOption = 128,
    seq_len: SeqLenOption = 512,
    seed: SeedOption = 0,
    budget: BudgetOption = Budget.FAST,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, ...")] = "cpu",
    data: DataOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantize a model and write it in slmquant's own format (safetensors with packed codes).

    It uses all cores; set OMP_NUM_THREADS=1 to use one.

    Examples:
        slmquant quantize smollm2-135m-instruct -o smollm2-gptq

        slmquant quantize ./my-model --method smoothquant --scheme W8A8 -o my-model-w8a8
    """
    from slmquant import api
    from slmquant.files import check_output
    from slmquant.formats.native.folder import is_native
    from slmquant.model.sources.resolve import place_of

    numbers = chosen_scheme(scheme, mixture, SCHEME)
    check_output(output, True, is_native, overwrite, place_of(model))  # the quick check first
    check_output(output, True, is_native, overwrite, place_of(model), api.least_bytes(model, numbers))
    with progress_bar(quiet) as progress:
        artifact = api.quantize(
            model,
            method,
            numbers,
            calibration=calibration(corpus, samples, seq_len, seed, data),
            device=device,
            seed=seed,
            budget=budget.value,
            data_dir=data,
            progress=progress,
        )
        artifact.save(output, overwrite=overwrite)
    for note in artifact.quantized.notes if not quiet else ():
        tell(note)
    facts = {
        "folder": str(output),
        "model": model,
        "method": method,
        "scheme": str(artifact.quantized.scheme),
        "parameters": artifact.size.parameters,
        "stored_bytes": artifact.size.stored_bytes,
        "bpw": artifact.size.bpw,
        "bpw_linears": artifact.size.bpw_linears,
    }
    if json:
        print_json(facts)
    elif not quiet:
        say(
            f"wrote {output}: {artifact.size.stored_bytes / 1e6:.1f} MB, {artifact.size.bpw:.2f} bits per weight "
            "over the whole model"
        )
