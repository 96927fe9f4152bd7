"""Types chosen for a number of bytes, and what is printed about them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.cli._output import print_table, tell

if TYPE_CHECKING:
    from slmquant.mixing.choose import Choice
    from slmquant.progress import Progress
    from slmquant.schemes.mixture_file import WeightType
    from slmquant.store.record import Budget, CalibrationSpec


def chosen_for(
    max_bytes: int,
    model: str,
    method: str,
    calibration: CalibrationSpec,
    budget: Budget,
    data: Path | None,
    progress: Progress,
    quiet: bool,
) -> Choice:
    """Choose types for a GGUF file of at most `max_bytes`, and print them unless `quiet`."""
    from slmquant import api

    choice = api.choose_mixture(
        model, max_bytes, method=method, calibration=calibration, budget=budget,
        data_dir=data, progress=progress,
    )  # fmt: skip
    if not quiet:
        print_choice(choice)
    return choice


def print_choice(choice: Choice) -> None:
    """Print which types each kind of weights got."""
    kinds: dict[str, list[WeightType]] = {}
    for name, kind in choice.weights.items():
        kinds.setdefault(name.rpartition(".")[2], []).append(kind)
    print_table(
        f"at most {choice.file_bytes / 1e6:.2f} MB as GGUF; predicted divergence {choice.predicted:.4f} nats",
        ("weights", "types"),
        [
            (name, ", ".join(f"{count} {kind}" for kind, count in Counter(one.type for one in several).most_common()))
            for name, several in kinds.items()
        ],
    )
    if not choice.optimal:
        tell("the solver ran out of time; another mixture may be predicted to cost less")
