"""What verdicts are given on, and what counts as no loss: declared before anything is measured.

The primary endpoints are one accuracy for each task with right and wrong answers, and the loss and the mean divergence
for each text. They alone are tested, and Holm's correction spans all of them in a table. Everything else that is
measured describes: it is shown with its interval and without a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slmquant.analysis.cells import ACCURACIES, accuracy_tasks, text_tasks
from slmquant.store.record import Record

Kind = Literal["accuracy", "perplexity", "kl_mean"]
"""Of a primary endpoint. A perplexity is tested by its logarithm, the loss."""

SIGNIFICANCE = 0.05
"""A verdict needs a corrected p below this."""

POWER = 0.8
"""The smallest difference that could have been seen is the one that is found with this probability."""


@dataclass(frozen=True)
class Margins:
    """Differences that nobody would mind: two cells are equivalent where the difference is shown to be smaller.

    Attributes:
        accuracy: Of a share of right answers: two points.
        nats: Of a loss or a mean divergence per token; 0.01 of a loss is 1 % of the perplexity.
    """

    accuracy: float = 0.02
    nats: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.accuracy < 1 and 0 < self.nats < float("inf")):
            raise ValueError(
                f"margins of {self.accuracy} in accuracy and {self.nats} nats; expected more than 0, and an accuracy "
                "below 1, such as 0.02 and 0.01"
            )

    def of(self, kind: Kind) -> float:
        """The margin of an endpoint; of a perplexity that of its loss."""
        return self.accuracy if kind == "accuracy" else self.nats


DEFAULT_MARGINS = Margins()


def endpoint(name: str, task: str | None, records: Sequence[Record]) -> Kind | None:
    """Which primary endpoint of these cells a metric is; None for everything else.

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
