"""`slmquant repeat`: run finished cells again, and compare."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._output import DataOption, JsonOption, QuietOption, print_json, print_table, progress_bar, say, tell

if TYPE_CHECKING:
    from slmquant.runs.repetition import Repetition


def command(
    store: Annotated[
        Path | None,
        typer.Argument(
            metavar="STORE",
            help="A result store, or a file of published cells.",
            show_default="SLMQUANT_STORE, else results/slmquant.sqlite",
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Number of cells, drawn at random.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Largest relative difference of a metric that counts as agreement.")
    ] = 0.001,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run some finished cells again, each from nothing, and compare every metric except times and memory.

    Cells whose model, data or code have changed are told apart, not run. The store is not changed. Exit code 1 says
    that a cell differs or failed.

    Example: slmquant repeat --sample 5
    """
    from slmquant.runs.repetition import candidates, repeat
    from slmquant.store import default_store_path
    from slmquant.store.combine import cells

    path = store or default_store_path()
    records = [record for record, _ in cells([path])]
    ended: list[Repetition] = []
    with progress_bar(quiet or json) as progress:
        found = candidates(records, data, progress)
        references = [record.spec for record in found.same if record.spec.is_reference]
        for one in repeat(found.sample(sample, seed), data, progress, references):
            ended.append(one)
            if not quiet:
                tell(f"{one.record.spec.label}: {_verdict(one, tolerance)}")
    bad = [one for one in ended if one.failure is not None or one.largest > tolerance]
    if json:
        print_json(
            {
                "repeated": [
                    {
                        "cell": one.record.cell_id,
                        "label": one.record.spec.label,
                        "verdict": _verdict(one, tolerance),
                        "compared": one.compared,
                        "largest_difference": one.largest,
                        "unequal": one.unequal,
                        "failure": one.failure,
                    }
                    for one in ended
                ],
                "apart": [{"cell": record.cell_id, "reason": reason} for record, reason in found.apart],
            }
        )
    else:
        _print(ended, tolerance)
        for reason, count in Counter(reason for _, reason in found.apart).items():
            say(f"not repeated, {count} cells: {reason}")
        say(f"{len(ended)} of {len(found.same)} cells run again; {len(bad)} differ")
    if bad:
        raise typer.Exit(1)


def _verdict(one: Repetition, tolerance: float) -> str:
    if one.failure is not None:
        return f"failed: {one.failure}"
    if not one.unequal:
        return "bit for bit"
    return "within tolerance" if one.largest <= tolerance else "differs"


def _print(ended: list[Repetition], tolerance: float) -> None:
    if not ended:
        return
    print_table(
        f"{len(ended)} cells, tolerance {tolerance:g}",
        ("cell", "model", "method", "scheme", "verdict", "metrics", "equal", "largest difference"),
        [
            (
                one.record.cell_id[:8],
                one.record.spec.model,
                one.record.spec.method,
                one.record.spec.scheme,
                _verdict(one, tolerance),
                str(one.compared),
                str(one.compared - len(one.unequal)),
                f"{one.largest:.2g}" if one.unequal else "0",
            )
            for one in ended
        ],
    )
    for one in ended:
        for name, (before, now) in one.unequal.items():
            say(f"  {one.record.cell_id[:8]} {name}: {before} stored, {now} now")
