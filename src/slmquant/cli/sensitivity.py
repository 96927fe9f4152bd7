"""`slmquant sensitivity`: what each weight of a model costs in each type of GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    print_table,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from slmquant.mixing.sensitivity import Sensitivity


def command(
    model: Annotated[str, typer.Argument(help="Model source: a name, hub id, folder or GGUF file.")],
    method: Annotated[str, typer.Option(help="Method that rounds, one weight at a time.")] = "slmq",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write, weight by weight.")] = None,
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
    """Show the divergence that the weights of a model cause in each type of GGUF, rounded by a method.

    Weights are rounded to every type: with --budget fast those of every fourth block, by which the others are
    estimated. Linears are priced by gradients and corrected by measurements of whole classes; embedding and head are
    measured. `slmquant quantize --max-bytes` chooses types by these figures.

    Examples:
        slmquant sensitivity smollm2-135m-instruct

        slmquant sensitivity smollm2-135m-instruct -o sensitivity.json
    """
    from slmquant import api
    from slmquant.files import atomic_file, check_output

    if output is not None:
        check_output(output, False, None, overwrite)
    with progress_bar(quiet) as progress:
        found = api.sensitivity(
            model, method=method, calibration=calibration(corpus, samples, seq_len, seed, data), budget=budget.value,
            data_dir=data, progress=progress,
        )  # fmt: skip
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_text(found.model_dump_json(indent=1), encoding="utf-8")
    if json:
        print_json(found.model_dump())
    elif not quiet:
        _print(found)


def _print(found: Sensitivity) -> None:
    """Print the sums of each kind of weights, and how well classes were predicted."""
    from scipy.stats import spearmanr

    sums = _by_kind(found.losses)
    types = sorted({kind for several in sums.values() for kind in several}, key=lambda kind: -_total(sums, kind))
    rows = [
        (name, f"{_millions(found, name):.1f}", *(f"{costs[kind]:.4f}" if kind in costs else "" for kind in types))
        for name, costs in sums.items()
    ]
    print_table("divergence in nats, all weights of a kind in one type", ("weights", "millions", *types), rows)
    print_table(
        "classes in the types that cost most",
        ("class", "predicted", "measured", "factor"),
        [
            (title, f"{one.predicted:.4f}", f"{one.measured:.4f}", f"{one.factor:.2f}")
            for title, one in found.classes.items()
        ],
    )
    predicted = [one.predicted for one in found.classes.values()]
    correlation = spearmanr(predicted, [one.measured for one in found.classes.values()]).statistic
    say(f"rank correlation of predicted and measured over {len(predicted)} classes: {correlation:.2f}")
    if found.error is not None:
        say(f"losses that were estimated from those of other blocks are off by {found.error:.1%}")


def _by_kind(losses: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Kind of weight → type → sum of losses, for types that all its weights may get."""
    weights: dict[str, list[Mapping[str, float]]] = {}
    for name, several in losses.items():
        weights.setdefault(name.rpartition(".")[2], []).append(several)
    return {
        name: {kind: sum(one[kind] for one in several) for kind in several[0] if all(kind in one for one in several)}
        for name, several in weights.items()
    }


def _total(sums: Mapping[str, Mapping[str, float]], kind: str) -> float:
    """Mean loss of a type over the kinds that may get it."""
    found = [several[kind] for several in sums.values() if kind in several]
    return sum(found) / len(found)


def _millions(found: Sensitivity, kind: str) -> float:
    """Millions of numbers in the weights of a kind."""
    return sum(count for name, count in found.elements.items() if name.rpartition(".")[2] == kind) / 1e6
