"""`slmquant quantize`: quantize one model and write it to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._calibration import (
    Budget,
    BudgetOption,
    CorpusOption,
    MaxBytesOption,
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
    max_bytes: MaxBytesOption = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="Output format; for another, as `slmquant export`.")
    ] = "native",
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
    """Quantize a model and write it in slmquant's own format (safetensors with packed codes), or in another.

    With --max-bytes, every weight gets one of GGUF's types such that the file has at most so many bytes and the least
    divergence from full precision. It uses all cores; set OMP_NUM_THREADS=1 to use one.

    Examples:
        slmquant quantize smollm2-135m-instruct -o smollm2-gptq

        slmquant quantize ./my-model --method smoothquant --scheme W8A8 -o my-model-w8a8

        slmquant quantize smollm2-135m-instruct --method slmq --max-bytes 92MB --format gguf -o model.gguf
    """
    from slmquant import api
    from slmquant.cli import export
    from slmquant.cli._mixture import chosen_for
    from slmquant.files import check_output
    from slmquant.formats.native.folder import is_native
    from slmquant.model.sources.load import load
    from slmquant.model.sources.resolve import place_of

    if format_ != "native":
        if device != "cpu":
            raise typer.BadParameter(
                f"--format {format_} is written on the CPU; leave --format out, then `slmquant export` the folder",
                param_hint="--device",
            )
        export.command(
            model, output, format_, method, scheme or (None if mixture or max_bytes else SCHEME), mixture, max_bytes,
            corpus=corpus, samples=samples, seq_len=seq_len, seed=seed, budget=budget, data=data,
            overwrite=overwrite, json=json, quiet=quiet,
        )  # fmt: skip
        return
    asked = chosen_scheme(scheme, mixture, SCHEME, max_bytes)
    check_output(output, True, is_native, overwrite, place_of(model))  # the quick check first
    least = 0 if isinstance(asked, int) else api.least_bytes(model, asked)
    check_output(output, True, is_native, overwrite, place_of(model), least)
    spec = calibration(corpus, samples, seq_len, seed, data)
    with progress_bar(quiet) as progress:
        loaded = load(model, progress=progress, mapped=False) if isinstance(asked, int) else None
        artifact = api.quantize(
            model,
            method,
            chosen_for(asked, model, method, spec, budget.value, data, progress, quiet, loaded=loaded)
            if isinstance(asked, int)
            else asked,
            calibration=spec,
            device=device,
            seed=seed,
            budget=budget.value,
            data_dir=data,
            progress=progress,
            loaded=loaded if device == "cpu" else None,
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
