"""Types chosen for a number of bytes, and what is printed about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.cli._output import print_table, say, tell

if TYPE_CHECKING:
    from slmquant.mixing.choose import Choice
    from slmquant.mixing.front import Speed
    from slmquant.model.sources.load import LoadedModel
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
    speed: Speed | None = None,
    loaded: LoadedModel | None = None,
) -> Choice:
    """Choose types for a GGUF file of at most `max_bytes` that decodes fast enough, and print them unless `quiet`.

    `loaded` is the model if it is loaded already; it is left as it is.
    """
    from slmquant import api

    choice = api.choose_mixture(
        model, max_bytes, method=method, calibration=calibration, budget=budget, speed=speed,
        data_dir=data, progress=progress, loaded=loaded,
    )  # fmt: skip
    if not quiet:
        print_choice(choice)
        print_speed(choice)
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


def print_speed(choice: Choice) -> None:
    """Print how fast a choice is predicted to decode, and the front of bytes, speed and divergence."""
    if choice.costs is None or choice.seconds is None:
        return
    error = choice.costs.error
    say(f"predicted: {_speed(1 / choice.seconds, error)} tokens/s ({choice.costs.conditions})")
    print_table(
        "mixtures of which none is better in all three, as predicted",
        ("MB", "tokens/s", "divergence"),
        [
            (f"{point.file_bytes / 1e6:.2f}", _speed(point.tokens_per_s, error), f"{point.divergence:.4f}")
            for point in choice.front
        ],
    )


def _speed(tokens_per_s: float, error: float) -> str:
    """`212.0 ± 4.1`."""
    return f"{tokens_per_s:.1f} ± {error * tokens_per_s:.1f}"


def facts(choice: Choice) -> dict[str, object]:
    """A choice as JSON."""
    chosen = {
        "file_bytes": choice.file_bytes,
        "predicted_divergence": choice.predicted,
        "types": choice.types,
        "notes": list(choice.notes),
    }
    if choice.costs is None or choice.seconds is None:
        return chosen
    return chosen | {
        "predicted_tokens_per_s": 1 / choice.seconds,
        "relative_error_of_speed": choice.costs.error,
        "seconds_per_number": choice.costs.seconds,
        "conditions": choice.costs.conditions,
        "front": [asdict(point) for point in choice.front],
    }
