"""`slmquant questions`: what a model's divergence comes from, answered by experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from slmquant.bounds import LARGEST_SEED
from slmquant.cli._calibration import Budget, BudgetOption, CorpusOption
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
from slmquant.store.experiments import QUESTIONS

if TYPE_CHECKING:
    from slmquant.runs.precision import Dtype
    from slmquant.store.experiments import Experiments


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    ask: Annotated[
        str, typer.Option("--ask", help=f"Comma-separated questions: {'; '.join(map(': '.join, QUESTIONS.items()))}.")
    ] = "operands",
    schemes: Annotated[
        str, typer.Option("--schemes", help="Comma-separated schemes; everything that one rounds is varied.")
    ] = "W8A8KV8E8,W4A8KV8E8",
    method: Annotated[str, typer.Option("--method", help="Method that rounds.")] = "rtn",
    texts: TextsOption = None,
    windows: WindowsOption = 12,
    length: LengthOption = 512,
    dtype: Annotated[str, typer.Option("--dtype", help="Compute dtype, or auto to measure and decide.")] = "auto",
    corpus: CorpusOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed of the method.")] = 0,
    budget: BudgetOption = Budget.FAST,
    data: DataOption = None,
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show by experiments what the divergence from full precision comes from, and whether outliers are to blame.

    operands: every combination of what the scheme rounds is measured; shares are Shapley values. ablation: a few
    channels or tokens of activations stay in full precision. doses: channels are scaled, the model's function staying
    the same. All on the same windows of text; verdicts come from intervals, and say when the windows cannot tell. What
    was measured is kept in the cache, so a run that was stopped continues where it was. Gains in memory and speed are
    measured by `slmquant ladder`.

    Examples:
        slmquant questions smollm2-135m-instruct

        slmquant questions smollm2-135m-instruct --ask operands,ablation,doses --schemes W8A8

        slmquant questions smollm2-135m-instruct --schemes W8A8 --windows 8 -o questions.json
    """
    from slmquant import api
    from slmquant.calib.corpora import calibration_corpus, check_corpus
    from slmquant.files import check_output
    from slmquant.store.experiments import write_experiments
    from slmquant.store.record import CalibrationSpec

    if output is not None:
        check_output(output, False, None, overwrite)
    chosen = corpus or calibration_corpus(data)
    check_corpus(chosen)
    with progress_bar(quiet) as progress:
        found = api.questions(
            model, split_names(schemes), ask=split_names(ask), method=method,
            calibration=CalibrationSpec(corpus=chosen), texts=None if texts is None else split_names(texts),
            windows=windows, length=length, dtype=cast("Dtype", dtype), seed=seed, budget=budget.value,
            data_dir=data, progress=progress,
        )  # fmt: skip
    if output is not None:
        write_experiments(found, output)
    if json:
        print_json(found.model_dump(mode="json"))
    elif not quiet:
        print_experiments(found)


def print_experiments(found: Experiments) -> None:
    """Print every table of the experiments, with the sentences below it."""
    from slmquant.report.experiments import conditions, tables_of

    for table in tables_of(found).values():
        print_table(table.title, table.heads, table.rows)
        for line in table.lines:
            say(line)
    say(conditions(found))
