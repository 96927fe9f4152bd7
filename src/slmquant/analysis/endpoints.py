"""Primary endpoints and equivalence margins, declared before anything is measured.

The primary endpoints are one accuracy for each task with right and wrong answers, and the loss and the mean divergence
for each text. Only these are tested, and Holm's correction covers all of them in a table. Every other metric is
descriptive: shown with its interval, without a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slmquant.analysis.cells import ACCURACIES, accuracy_tasks, text_tasks
from slmquant.store.record import Record

Kind = Literal["accuracy", "perplexity", "kl_mean"]
"""Kinds of primary endpoints. A perplexity is tested by its logarithm, the loss."""

SIGNIFICANCE = 0.05
"""A verdict needs a corrected p below this."""

POWER = 0.8
"""Probability with which the smallest detectable difference is found."""


@dataclass(frozen=True)
class Margins:
    """Differences too small to matter: cells shown to differ by less are equivalent.

    Attributes:
        accuracy: For accuracies; the default is two percentage points.
        nats: For losses and mean divergences per token; 0.01 nats of loss is 1 % of perplexity.
    """

    accuracy: float = 0.02
    nats: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.accuracy < 1 and 0 < self.nats < float("inf")):
            raise ValueError(
                f"margins are {self.accuracy} in accuracy and {self.nats} nats; expected both above 0 and the accuracy "
                "below 1, such as 0.02 and 0.01"
            )

    def of(self, kind: Kind) -> float:
        """The margin of an endpoint; for a perplexity, the margin of its loss."""
        return self.accuracy if kind == "accuracy" else self.nats


DEFAULT_MARGINS = Margins()


def endpoint(name: str, task: str | None, records: Sequence[Record]) -> Kind | None:
    """The kind of primary endpoint that a metric is for these cells; None if it is descriptive.

    The accuracy of a task is the first of `cells.ACCURACIES` that any of the cells has.
    """
    if task is None:
        return None
    if task in accuracy_tasks(records):
        measured = {metric.name for record in records for metric in record.metrics if metric.task == task}
        return "accuracy" if name == next(one for one in ACCURACIES if one in measured) else None
    if task in text_tasks(records):
        if name == "perplexity":
            return "perplexity"
        if name == "kl_mean":
            return "kl_mean"
    return None
