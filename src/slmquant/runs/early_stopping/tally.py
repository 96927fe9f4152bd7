"""Combines the answers of all rounds into the figures of a cell that stopped early."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from slmquant.analysis.cells import ACCURACIES
from slmquant.store.record import DataCard, ItemOutcome, Metric, Record, TaskSpec
from slmquant.tasks.common.contract import TaskResult


@dataclass
class Tally:
    """One cell's answers to one task so far, in the order that all cells share.

    Attributes:
        spec: The task.
        parts: The result of each round.
    """

    spec: TaskSpec
    parts: list[TaskResult] = field(default_factory=list)

    @classmethod
    def of_record(cls, spec: TaskSpec, record: Record, items: Sequence[ItemOutcome]) -> Tally:
        """The answers of a stored cell."""
        label = str(spec)
        metrics = tuple(m for m in record.metrics if m.task == label and m.name != "items_saved")
        cards = tuple(card for card in record.data if card.name == spec.name)
        answers = tuple(item for item in items if item.task == label)
        return cls(spec, [TaskResult(metrics, cards, answers)] if answers else [])

    @property
    def items(self) -> list[ItemOutcome]:
        """All answers."""
        return [item for part in self.parts for item in part.items]

    @property
    def cards(self) -> list[DataCard]:
        """The data that the items came from."""
        return list(dict.fromkeys(card for part in self.parts for card in part.data))

    @property
    def available(self) -> int | None:
        """Number of items that can be evaluated; None if it is not known yet."""
        rows = [card.rows for card in self.cards]
        return min(rows[0], self.spec.limit or rows[0]) if rows else self.spec.limit

    @property
    def answers(self) -> list[float] | None:
        """1 for right and 0 for wrong answers; None if there are none yet, or if answers are neither."""
        items = self.items
        name = next((name for name in ACCURACIES if items and name in items[0].values), None)
        if name is None:
            return None
        values = [item.values[name] for item in items]
        return values if all(value in (0, 1) for value in values) else None

    def metrics(self) -> tuple[Metric, ...]:
        """The figures over all items: means, chance, a perplexity of whole continuations, and the items saved."""
        items = self.items
        pooled = [self._pooled(metric, items) for metric in (self.parts[0].metrics if self.parts else ())]
        known = [metric for metric in pooled if metric is not None]
        if known and self.available is not None:
            known.append(
                Metric(
                    name="items_saved",
                    value=self.available - len(items),
                    unit="count",
                    higher_is_better=None,
                    task=str(self.spec),
                    n=len(items),
                    protocol=known[0].protocol,
                )
            )
        return tuple(known)

    def _pooled(self, metric: Metric, items: Sequence[ItemOutcome]) -> Metric | None:
        values = [item.values[metric.name] for item in items if metric.name in item.values]
        losses = [-item.values["loglikelihood"] for item in items if "loglikelihood" in item.values]
        if len(values) == len(items):
            value, stderr = statistics.fmean(values), _stderr(values)
        elif metric.name == "perplexity" and len(losses) == len(items):
            value, spread = math.exp(statistics.fmean(losses)), _stderr(losses)
            stderr = None if spread is None else value * spread
        elif metric.name == "chance":
            parts = [(part, m) for part in self.parts for m in part.metrics if m.name == "chance"]
            value = sum(m.value * len(part.items) for part, m in parts) / sum(len(part.items) for part, _ in parts)
            stderr = None
        else:  # cannot be computed from its parts
            return None
        return metric.model_copy(update={"value": value, "stderr": stderr, "n": len(items)})


def _stderr(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
