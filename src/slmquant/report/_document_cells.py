"""What all tables of documents share: choosing cells, naming them, Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from slmquant.errors import StoreError
from slmquant.store.record import ItemOutcome, Record

Answers = Mapping[str, Sequence[ItemOutcome]]
"""Cell id → what the cell answered."""

ABSENT = ""
"""An empty field."""

_CHOICES: Mapping[str, Callable[[Record], object]] = {
    "model": lambda record: record.spec.model,
    "scheme": lambda record: record.spec.scheme,
    "method": lambda record: record.spec.method,
    "seed": lambda record: calibration_seed(record),
}


def chosen_of(records: Sequence[Record], wanted: str) -> list[Record]:
    """The records that match `wanted`, such as `scheme=W4A16g64 seed=0`."""
    choice = dict(part.split("=", 1) for part in wanted.split())
    if unknown := set(choice) - set(_CHOICES):
        raise StoreError(f"unknown filter {', '.join(sorted(unknown))}; expected {', '.join(_CHOICES)}")
    return [r for r in records if all(str(_CHOICES[name](r)) == value for name, value in choice.items())]


def calibration_seed(record: Record) -> int | None:
    return None if record.spec.calibration is None else record.spec.calibration.seed


def short_name(text: str | None) -> str:
    return "" if text is None else text.split("@")[0].split(":")[0]


def value_of(record: Record, name: str, task: str | None) -> float:
    metric = record.metric(name, task)
    return float("inf") if metric is None else metric.value


def method_of(record: Record, *, with_seed: bool) -> str:
    seed = calibration_seed(record)
    budget = f", `{record.spec.budget}`" if record.spec.budget else ""
    return f"`{record.spec.method}`" + budget + (f", seed {seed}" if with_seed and seed is not None else "")


def each_of(labels: Iterable[str | None]) -> str:
    """Join the distinct labels, in order."""
    return "; and ".join(dict.fromkeys(label for label in labels if label))


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows]
    return "\n".join(lines) + "\n"
