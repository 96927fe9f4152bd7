"""An answer: what to ship, why, how sure that is, what it costs, and what was ruled out by which constraint or rule."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.question import Name, Question


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Figure(_Frozen):
    """A number with its 95 % interval, if that is known."""

    value: float
    low: float | None = None
    high: float | None = None


class Option(_Frozen):
    """A candidate that may be shipped."""

    candidate: Candidate
    size_bytes: int | None
    """Bytes of the engine's file or, without an engine, of the stored weights."""
    divergence: Figure | None
    """Mean divergence from full precision, in nats per token."""
    against_first: Figure | None = None
    """Its divergence divided by that of the first option; None for the first, or if that has none."""
    kept: Figure | None = None
    """Share of full precision's accuracy."""
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    probability_best: float | None = None
    """Probability that it is the best of those that fit; None if windows are too few to say."""
    may_be_best: bool = True
    """Whether no other is shown to be better."""
    windows: int = 0
    """Windows of text that it was compared on."""
    make_minutes: float | None = None
    """Minutes to make it, as recorded; None if no record tells."""
    why: str
    command: str
    """The command that makes it."""
    cells: tuple[str, ...] = ()
    """The cells that say so."""


class Ruled(_Frozen):
    """A candidate that is out."""

    label: str
    by: str
    """The constraint (`--max-bytes at most 95 MB`) or the rule that put it out."""
    reason: str
    """What it has, or why the rule put it out."""


class Miss(_Frozen):
    """By how much a candidate misses a constraint."""

    constraint: Name
    asked: float
    has: float


class Nearest(_Frozen):
    """The candidate that comes closest when none fits."""

    option: Option
    misses: tuple[Miss, ...]


class Lacking(_Frozen):
    """A candidate that could not be judged."""

    label: str
    lacks: str
    """What was not measured."""


class Answer(_Frozen):
    """The answer to a question; its id is a hash of it, so the same evidence gives the same answer and id."""

    version: Literal[1] = 1
    """Version of this form of answers."""
    question: Question
    model_sha256: str
    compared_on: str
    """The windows, in words."""
    options: tuple[Option, ...]
    """A short ranked list; empty if nothing fits."""
    further: int = 0
    """Number of other candidates that fit."""
    ruled_out: tuple[Ruled, ...] = ()
    lacking: tuple[Lacking, ...] = ()
    nearest: Nearest | None = None
    binding: tuple[Name, ...] = ()
    """If nothing fits: the constraints without any one of which something would."""
    advice: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    evidence: tuple[str, ...]
    """Ids of all cells that it rests on."""

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of its content."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """Its content as JSON, as it is stored."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
