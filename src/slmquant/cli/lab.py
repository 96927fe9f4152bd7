"""`slmquant lab`: what a factor of architecture or training does to quantization, by experiment."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import DataOption, JsonOption, QuietOption, console, print_json, tell

if TYPE_CHECKING:
    from slmquant.lab.plan import LabPlan
    from slmquant.store.record import Record


def command(
    plan_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Plan in YAML, or a store or file of cells that a plan has measured.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Models to train side by side.", show_default="one on each core")
    ] = None,
    data: DataOption = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Result store to write.", show_default="SLMQUANT_STORE or results/slmquant.sqlite"),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of plans, for editors.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train tiny models that are equal but for one factor, quantize them identically, and show each factor's effect.

    A plan has a base, factors with their levels, and seeds. For every seed the base, each level and a placebo (other
    initial weights) are trained on the same text in the same order. An effect is the ratio of divergences of a level
    and the base, paired within seeds: mean, 95 % interval and an exact test over seeds, corrected by Holm over all
    levels. The difference in full-precision loss stands beside it, as a worse model may be easier to quantize.

    Trained models are kept in the cache, cells in the store: an interrupted command goes on where it stopped. Of
    a store or a file of published cells the effects are shown, and nothing is run.

    For example:

    [dim]slmquant lab plans/lab-small.yaml[/dim]

    [dim]slmquant lab plans/lab.yaml --jobs 2 --store lab.sqlite[/dim]

    [dim]slmquant lab lab.sqlite --json[/dim]
    """
    from slmquant.analysis.factors import study
    from slmquant.errors import FAILED_CELLS
    from slmquant.lab.plan import schema as plan_schema
    from slmquant.report.factors import study_report
    from slmquant.store.combine import JSON_LINES, STORES, opened

    if schema:
        print_json(plan_schema())
        return
    if plan_file is None:
        raise typer.BadParameter("name a plan: slmquant lab plans/lab-small.yaml", param_hint="FILE")
    whole = True
    if plan_file.suffix in (JSON_LINES, *STORES):
        with opened([plan_file]) as (records, _):
            found = study(records)
    else:
        records, whole = _measured(_plan(plan_file), jobs, data, store, quiet or json)
        found = study(records)
    if json:
        print_json(found.as_json())
    else:
        console.print(study_report(found))
    if not whole:
        tell("some models or cells failed; the same command tries them again")
        raise typer.Exit(FAILED_CELLS)


def _plan(path: Path) -> LabPlan:
    from slmquant.lab.checks import make_lab_plan
    from slmquant.runs.plan_file import read_plan_file

    file = read_plan_file(path)
    return make_lab_plan(file.fields, file)


def _measured(
    plan: LabPlan, jobs: int | None, data: Path | None, store: Path | None, quiet: bool
) -> tuple[list[Record], bool]:
    """Train and measure; returns the cells, and whether all models and cells went well.

    Raises:
        typer.Exit: The run was interrupted.
    """
    from slmquant.cli._sweep import Sweep, live_view
    from slmquant.errors import INTERRUPTED
    from slmquant.interruption import recognised
    from slmquant.lab.laboratory import measure_models, train_models
    from slmquant.machine.environment import usable_cores
    from slmquant.places import Places
    from slmquant.store import Store, default_store_path

    places, sweep = Places(data), Sweep()
    try:
        with recognised(), Store(store or default_store_path()) as opened, live_view(sweep, quiet) as view:
            say = _silent if quiet else tell
            trained = train_models(plan, places, jobs or usable_cores(), view, say)
            result = measure_models(plan, trained, opened, places, view, view.tell)
    except KeyboardInterrupt:
        tell(f"interrupted: {sweep.summary}; go on with")
        tell(f"  {shlex.join(['slmquant', *sys.argv[1:]])}")
        raise typer.Exit(INTERRUPTED) from None
    for name, reason in trained.failures.items():
        tell(f"{name} was not trained: {reason}")
    return list(result.records), not (trained.failures or result.failed)


def _silent(text: str) -> None:
    """Print nothing."""
    del text
