"""`slmquant recommend`: which quantization of a model to ship."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmquant.cli._output import DataOption, JsonOption, OverwriteOption, QuietOption, tell

MINUTES = 15.0


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="Model source; with --show, an answer's id or its model.", show_default=False),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(help="Most bytes of the engine's file, or of the stored weights without --engine, e.g. 95MB."),
    ] = None,
    min_tokens_per_second: Annotated[
        float | None, typer.Option(help="Fewest tokens per second that the engine decodes.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Most resident memory of the engine with the model, e.g. 300MB.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Least share of full precision's accuracy over the measured tasks, e.g. 99%.")
    ] = None,
    max_divergence: Annotated[
        float | None, typer.Option(help="Largest divergence from full precision, in nats per token.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="Engine that will run it.", show_default="slmquant itself")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Most minutes to measure what records lack; 0 answers from records alone.")
    ] = MINUTES,
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Further stores, or files of published cells, to answer from.", show_default="none"),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Store of cells, which also keeps the answer.",
            show_default="SLMQUANT_STORE, else results/slmquant.sqlite",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Make the first choice and measure it.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File or folder that --apply writes.", show_default="MODEL-quantized"),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print an earlier answer again, by default the latest.")] = False,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say which quantization of a model to ship under constraints: what, why, how sure, what it costs, what is out.

    Rules, measurements and statistics; no network, no language model. Records answer what they can, the rest is
    measured within --minutes. Without a constraint of quality (--keep, --max-divergence) the least divergence that fits
    is best, with one the smallest that has it. The answer is kept in the store. If nothing fits, it says what comes
    closest and exits with code 3.

    Examples:
        slmquant recommend smollm2-135m-instruct --max-bytes 95MB --engine llamacpp --apply -o model.gguf

        slmquant recommend smollm2-135m-instruct --max-divergence 0.05 --minutes 0 --records published.jsonl

        slmquant recommend --show
    """
    from slmquant.cli import _recommendation as parts
    from slmquant.cli._answer import print_answer
    from slmquant.errors import OutputError, RefusedError
    from slmquant.recommendation.candidate import output_name
    from slmquant.recommendation.question import ask

    given = (max_bytes, min_tokens_per_second, max_memory, keep, max_divergence, engine, records, apply, output)
    if show:
        if any(given):
            raise OutputError("--show prints an earlier answer and takes no constraints; leave out one or the other")
        print_answer(parts.latest(model, store), json)
        return
    if model is None:
        raise OutputError("name a model: slmquant recommend smollm2-135m-instruct --max-bytes 95MB")
    if output is not None and not apply:
        raise OutputError(f"--output {output} is written by --apply; give both, or neither")
    question = ask(
        model,
        max_bytes=max_bytes,
        min_tokens_per_second=min_tokens_per_second,
        max_memory=max_memory,
        keep=keep,
        max_divergence=max_divergence,
        engine=engine,
        minutes=minutes,
    )
    if apply:
        output = output or Path(output_name(model, parts.format_of(question)))
        parts.check_target(question, output, overwrite)
    answer = parts.answered(question, store, records or (), data, quiet or json)
    print_answer(answer, json)
    if not answer.options:
        tell(f"nothing fits of what was measured of {question.model}")
        raise typer.Exit(RefusedError.exit_code)
    if output is not None:
        parts.applied(answer, output, overwrite, data, quiet or json)
