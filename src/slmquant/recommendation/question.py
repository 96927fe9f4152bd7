"""What is asked: a model, the constraints that a quantization of it has to meet, and the minutes to spend on it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slmquant.boundary import size_text
from slmquant.cache.upkeep import read_size
from slmquant.errors import OutputError

MOST_MINUTES = 7 * 24 * 60.0

Name = Literal["max_bytes", "min_tokens_per_second", "max_memory", "keep", "max_divergence"]
"""A constraint. Those of quality are `keep` and `max_divergence`, the others are of resources."""

QUALITY: tuple[Name, ...] = ("keep", "max_divergence")


class Constraints(BaseModel):
    """What a quantization has to meet; None asks nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_bytes: int | None = None
    """Most bytes: of the file that the engine opens or, without an engine, of the stored weights."""
    min_tokens_per_second: float | None = None
    """Fewest tokens per second that the engine decodes."""
    max_memory: int | None = None
    """Most resident memory, in bytes, that the engine needs with the model."""
    keep: float | None = None
    """Least share of full precision's accuracy, mean over the tasks that were measured."""
    max_divergence: float | None = None
    """Largest divergence from full precision, in nats per token."""

    @property
    def asked(self) -> dict[Name, float]:
        """The constraints that are set."""
        return {name: value for name, value in self if value is not None}  # type: ignore[misc]  # names of fields

    @property
    def of_quality(self) -> bool:
        """Whether a quality is asked for, so that the smallest file that has it is the best."""
        return any(name in QUALITY for name in self.asked)


class Question(BaseModel):
    """A request for a recommendation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Model source, as given."""
    constraints: Constraints
    engine: str | None = None
    """The engine that will run the model; None for slmquant's own format."""
    minutes: float = 0.0
    """Most minutes to spend on measuring what the records lack."""


def option(name: Name) -> str:
    """The command-line option of a constraint."""
    return f"--{name.replace('_', '-')}"


def written(name: Name, value: float) -> str:
    """A value of a constraint with its unit."""
    if name in ("max_bytes", "max_memory"):
        return size_text(round(value))
    if name == "keep":
        return f"{value:.4g}" if value < 0 else f"{100 * value:.4g}%"
    return f"{value:.3g} tokens/s" if name == "min_tokens_per_second" else f"{value:.3g} nats"


def ask(
    model: str,
    *,
    max_bytes: str | None = None,
    min_tokens_per_second: float | None = None,
    max_memory: str | None = None,
    keep: str | None = None,
    max_divergence: float | None = None,
    engine: str | None = None,
    minutes: float = 0.0,
) -> Question:
    """A question, from the words of the command line.

    Raises:
        OutputError: A constraint cannot be read, none is given, or two contradict each other.
    """
    constraints = Constraints(
        max_bytes=_size(max_bytes, "--max-bytes"),
        min_tokens_per_second=_positive(min_tokens_per_second, "--min-tokens-per-second", "tokens per second"),
        max_memory=_size(max_memory, "--max-memory"),
        keep=_share(keep),
        max_divergence=_positive(max_divergence, "--max-divergence", "nats per token"),
    )
    if not constraints.asked:
        raise OutputError(
            "nothing is asked of the model; give at least one of --max-bytes 95MB, --max-memory 300MB, "
            "--min-tokens-per-second 20, --keep 99%, --max-divergence 0.05"
        )
    of_engines: tuple[Name, ...] = ("min_tokens_per_second", "max_memory")
    lacking = [option(name) for name in of_engines if name in constraints.asked and engine is None]
    if lacking:
        raise OutputError(f"{' and '.join(lacking)} can only be measured on an engine; add --engine llamacpp")
    if not 0 <= minutes <= MOST_MINUTES:
        raise OutputError(f"--minutes is {minutes:g}; expected 0 (answer from records alone) to {MOST_MINUTES:g}")
    return Question(model=model, constraints=constraints, engine=engine, minutes=minutes)


def _size(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    size = read_size(text, what)
    if size == 0:
        raise OutputError(f"{what} is {text!r}; nothing is so small: give a size such as 95MB")
    return size


def _positive(value: float | None, what: str, unit: str) -> float | None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise OutputError(f"{what} is {value:g}; expected {unit} above 0")
    return value


def _share(text: str | None) -> float | None:
    """`99%` or `0.99` as a share."""
    if text is None:
        return None
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if rest or not 0 < value <= 1:
        raise OutputError(f"--keep is {text!r}; expected a share of full precision's accuracy up to 100%, such as 99%")
    return value
