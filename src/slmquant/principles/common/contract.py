"""What a principle is: a rule, what it predicts, the evidence that it needs, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from slmquant.analysis.endpoints import DEFAULT_MARGINS
from slmquant.analysis.intervals import Interval
from slmquant.analysis.means import Estimate
from slmquant.principles.common.cells import ModelCells
from slmquant.principles.common.decisions import Decision

__all__ = ["NEGLIGIBLE", "TENTH", "Evidence", "Finding", "Found", "Need", "Prediction", "Principle", "Scale"]

TENTH = math.log(1.1)
"""The smallest change of a divergence that matters, as a logarithm: a tenth."""
NEGLIGIBLE = DEFAULT_MARGINS.nats
"""The largest divergence per token that does not matter, in nats."""

Scale = Literal["logarithm", "nats", "correlation", "share"]
"""Unit of an effect: logarithm of a factor on the divergence, nats per token, rank correlation, share of a count."""


@dataclass(frozen=True)
class Prediction:
    """What the effect is in every model, if the rule is right.

    Attributes:
        effect: What is estimated, in words.
        side: On which side of the margin it lies.
        margin: The smallest effect that bears the rule out, or the largest that does not speak against it.
    """

    effect: str
    side: Literal["above", "below"]
    margin: float

    def is_right(self, value: float) -> bool:
        """Whether a value lies on the predicted side."""
        return value > self.margin if self.side == "above" else value < self.margin

    def is_contradicted(self, interval: Interval | None) -> bool:
        """Whether a whole interval lies on the other side."""
        return interval is not None and not (self.is_right(interval.low) or self.is_right(interval.high))


@dataclass(frozen=True)
class Finding:
    """One contrast of matched cells.

    Attributes:
        label: What was compared.
        task: The task or text that it was compared on.
        cells: Ids of the cells.
        effect: The estimated effect.
        interval: Its 95 % interval; None if there is none.
        n: Number of windows or items.
    """

    label: str
    task: str
    cells: tuple[str, ...]
    effect: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Need:
    """Cells that are missing.

    Attributes:
        cells: The cells, in words.
        command: The command that measures them.
    """

    cells: str
    command: str


@dataclass(frozen=True)
class Found:
    """The evidence of one model.

    Attributes:
        findings: Every contrast that the model's cells allow.
        estimate: The model's effect, over all of them; None if there is too little evidence.
        n: Number of windows, items or pairs behind the estimate.
        counted: What `n` counts.
        needs: Cells that are missing.
        remarks: Contrasts that were left out, and why.
    """

    findings: tuple[Finding, ...] = ()
    estimate: Estimate | None = None
    n: int = 0
    counted: str = "windows"
    needs: tuple[Need, ...] = ()
    remarks: tuple[str, ...] = ()


class Evidence(Protocol):
    """A way to estimate a principle's effect from a model's cells."""

    @property
    def scale(self) -> Scale:
        """Unit of the effect."""

    def of(self, model: ModelCells, others: Sequence[ModelCells]) -> Found:
        """The effect in one model; without matched cells, what is missing.

        Args:
            model: The model.
            others: All models with cells, for rules that compare models.
        """


@dataclass(frozen=True)
class Principle:
    """A rule that measurements can refute.

    Attributes:
        rule: The rule, in one sentence.
        source: Where it comes from.
        prediction: What it says about the effect.
        evidence: How the effect is estimated.
        if_it_holds: What follows where it holds.
        if_it_fails: What follows where it fails.
    """

    rule: str
    source: str
    prediction: Prediction
    evidence: Evidence
    if_it_holds: tuple[Decision, ...] = field(default=())
    if_it_fails: tuple[Decision, ...] = field(default=())
