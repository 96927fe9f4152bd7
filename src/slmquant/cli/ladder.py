"""`slmquant ladder`: whether gains in memory and speed carry over, from random-weight models on every engine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._names import split_names
from slmquant.cli._output import JsonOption, QuietOption, print_json, print_table, say, tell
from slmquant.ladder.rungs import RUNGS

if TYPE_CHECKING:
    from slmquant.analysis.ladder import Ladder
    from slmquant.ladder.climb import Climb
    from slmquant.store.record import Record


def command(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A store or file of cells that a ladder has measured: it is shown, and nothing is run.",
            show_default=False,
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(help=f"Comma-separated sizes: {', '.join(RUNGS)}.")] = "15m,42m,135m,270m,500m",
    engines: Annotated[
        str | None, typer.Option(help="Comma-separated engines.", show_default="all that are usable here")
    ] = None,
    rounds: Annotated[int, typer.Option(min=4, help="Number of timed passes of each file.")] = 10,
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit of opening a file and of a pass, in seconds.")
    ] = 300,
    store: Annotated[
        Path | None,
        typer.Option(help="Result store to write.", show_default="SLMQUANT_STORE or results/slmquant.sqlite"),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what 8 and 4 bits gain over 16 in speed and memory, for sizes of small models on every engine.

    Models of random weights in the shapes of real ones are written in each engine's format, with all weights in 16, 8
    and 4 bits, and timed in turns. A gain is compared with the ideal, by how much the bytes of weights shrink; a line
    through the widths of each size shows the share of time and memory that no bit width can save. The cost is told
    first. Rows are kept in the store: an interrupted command goes on where it stopped.

    For example:

    [dim]slmquant ladder[/dim]

    [dim]slmquant ladder --sizes 15m,42m,135m --engines llamacpp,onnxruntime --store ladder.sqlite[/dim]

    [dim]slmquant ladder ladder.sqlite --json[/dim]
    """
    from slmquant.analysis.ladder import ladder
    from slmquant.errors import FAILED_CELLS
    from slmquant.store import default_store_path
    from slmquant.store.combine import opened

    failed = False
    if file is None:
        file = store or default_store_path()
        records = _measured(
            split_names(sizes), None if engines is None else split_names(engines), rounds, timeout, file, quiet or json
        )
        failed = any(record.status not in ("ok", "refused") for record in records)
    with opened([file]) as (known, read_items):
        found = ladder(known, read_items)
    if json:
        print_json(found.as_json())
    else:
        _print(found)
    if failed:
        tell("some cells failed; the same command tries them again")
        raise typer.Exit(FAILED_CELLS)


def _measured(
    sizes: list[str], names: list[str] | None, rounds: int, timeout: float, store: Path, quiet: bool
) -> list[Record]:
    """Check, tell the cost, and measure.

    Raises:
        typer.Exit: The run was interrupted.
    """
    from slmquant.cli._sweep import Sweep, live_view
    from slmquant.errors import INTERRUPTED
    from slmquant.interruption import recognised
    from slmquant.ladder.climb import Climb, climb, usable_engines
    from slmquant.ladder.cost import check_fits
    from slmquant.ladder.rungs import rungs_of
    from slmquant.store import Store

    rungs = rungs_of(sizes)
    usable, absent = usable_engines(names)
    check_fits(rungs)
    plan, sweep = Climb(rungs, usable, rounds, timeout), Sweep()
    if not quiet:
        for reason in absent:
            tell(f"not measured: {reason}")
        tell(_told(plan))
    try:
        with recognised(), Store(store) as opened, live_view(sweep, quiet) as view:
            return climb(plan, opened, view, view.tell)
    except KeyboardInterrupt:
        tell(f"interrupted: {sweep.summary}; go on with")
        tell(f"  {shlex.join(['slmquant', *sys.argv[1:]])}")
        raise typer.Exit(INTERRUPTED) from None


def _told(plan: Climb) -> str:
    """What is measured and what it costs, in a sentence."""
    from slmquant.boundary import size_text
    from slmquant.cli._sweep import duration
    from slmquant.ladder.cost import cost_of

    cost = cost_of(plan.rungs, len(plan.engines), plan.rounds)
    sizes = ", ".join(f"{rung.name} ({rung.like})" for rung in plan.rungs)
    return (
        f"{plan.cells} cells: {sizes} on {', '.join(plan.engines)}; about {duration(cost.seconds)} on one core, up to "
        f"{size_text(cost.memory_bytes)} of memory and {size_text(cost.disk_bytes)} of temporary files"
    )


def _print(found: Ladder) -> None:
    from slmquant.report.ladder import ladder_tables

    for table in ladder_tables(found).values():
        print_table(table.title, table.heads, table.rows)
        for line in table.lines:
            say(line)
