"""`slmquant quantize`: one model, one method, one scheme, one folder."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import DataOption, JsonOption, QuietOption, console, err_console, print_json, progress_bar


class Budget(str, Enum):
    """What learning may cost: two cores, or the authors' setting."""

    FAST = "fast"
    PAPER = "paper"


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    method: Annotated[str, typer.Option(help="A method, or a combination a+b.")] = "gptq",
    scheme: Annotated[str, typer.Option(help="A scheme name.")] = "W4A16g64",
    corpus: Annotated[
        str | None, typer.Option(help="Calibration corpus.", show_default="WikiText-2's train split if at hand")
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration windows.")] = 128,
    seq_len: Annotated[int, typer.Option(help="Tokens in a window.")] = 512,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    budget: Annotated[Budget, typer.Option(help="What methods that learn may spend.")] = Budget.FAST,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantize a model and write it in slmquant's own format (safetensors, codes packed).

    Examples:
        slmquant quantize smollm2-135m-instruct -o smollm2-gptq

        slmquant quantize ./my-model --method smoothquant --scheme W8A8 -o my-model-w8a8
    """
    from slmquant import api
    from slmquant.calib.corpora import calibration_corpus
    from slmquant.store.record import CalibrationSpec

    chosen = corpus or calibration_corpus(data)
    calibration = CalibrationSpec(corpus=chosen, num_samples=samples, seq_len=seq_len, seed=seed)
    with progress_bar(quiet) as progress:
        artifact = api.quantize(
            model,
            method,
            scheme,
            calibration=calibration,
            device=device,
            seed=seed,
            budget=budget.value,
            data_dir=data,
            progress=progress,
        )
        artifact.save(output)
    for note in artifact.quantized.notes if not quiet else ():
        err_console.print(note, highlight=False)
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
        console.print(
            f"wrote {output}: {artifact.size.stored_bytes / 1e6:.1f} MB, {artifact.size.bpw:.2f} bits per weight "
            "over the whole model",
            highlight=False,
            soft_wrap=True,
        )
