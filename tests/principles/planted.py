"""INVENTED TEST DATA: cells whose divergences have a planted truth. No number here was ever measured."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

from slmquant.principles.common.cells import ModelCells, models_of
from slmquant.principles.common.contract import Principle
from slmquant.principles.common.verdicts import Judged, judge
from slmquant.store.record import CalibrationSpec, CellSpec, ItemOutcome, Metric, Record, TaskSpec
from tests import invented

TEXT = TaskSpec(name="wikitext2", limit=16)
FREE = ("rtn",)
"""Methods that need no calibration text."""


class Planted:
    """Records with planted divergences.

    Args:
        noise: Standard deviation of the logarithm of a window's divergence, for each cell.
        difficulty: The same for what makes a window hard for every cell.
        seed: Seed of both.
    """

    def __init__(self, noise: float = 0.05, difficulty: float = 0.5, seed: int = 0) -> None:
        self.noise, self.difficulty, self.seed = noise, difficulty, seed
        self.records: list[Record] = []
        self.items: dict[str, list[ItemOutcome]] = {}

    def cell(
        self,
        name: str,
        divergence: float,
        model: str = "invented-135m",
        task: TaskSpec = TEXT,
        windows: int | None = None,
        stored_bytes: float | None = None,
        accuracies: Mapping[str, Sequence[int]] | None = None,
        **changes: object,
    ) -> Record:
        """Add a cell, `method/scheme`, with this mean divergence; `changes` are of its spec."""
        method, scheme = name.split("/")
        calibration = None if set(method.split("+")) <= set(FREE) else CalibrationSpec()
        asked = [TaskSpec(name=other, limit=len(right)) for other, right in (accuracies or {}).items()]
        spec = CellSpec(
            model=model,
            model_sha256=random.Random(model).randbytes(32).hex(),
            method=method,
            scheme=scheme,
            calibration=calibration,
            tasks=(task, *asked),
            compute_dtype="bfloat16",
        ).model_copy(update=changes)
        values = self._windows(model, name, task, divergence, windows or task.limit or 0)
        metrics = [invented.metric("kl_mean", divergence, str(task), divergence / 50, unit="nats")]
        metrics += [] if stored_bytes is None else [invented.metric("stored_bytes", stored_bytes, unit="bytes")]
        items = [
            ItemOutcome(task=str(task), item=str(9 * place), values={"kl_mean": value})
            for place, value in enumerate(values)
        ]
        for other, right in zip(asked, (accuracies or {}).values(), strict=True):
            metrics += invented.accuracy("acc", sum(right) / len(right), str(other))
            items += [ItemOutcome(task=str(other), item=str(i), values={"acc": float(r)}) for i, r in enumerate(right)]
        return self.add(spec, metrics, items)

    def add(self, spec: CellSpec, metrics: Sequence[Metric], items: list[ItemOutcome]) -> Record:
        """Add a record, finished a minute after the last."""
        record = invented.record(spec.method, spec.scheme, tuple(metrics), minute=len(self.records), cell=spec)
        moved = record.finished_at + timedelta(minutes=len(self.records))
        self.records.append(record.model_copy(update={"finished_at": moved}))
        self.items[record.cell_id] = items
        return self.records[-1]

    def models(self) -> list[ModelCells]:
        """The models of all cells."""
        return models_of(self.records, lambda cell_id: self.items[cell_id])

    def judged(self, *principles: Principle) -> list[Judged]:
        """The principles, tested on all cells."""
        return judge({f"rule_{place}": one for place, one in enumerate(principles)}, self.models())

    def _windows(self, model: str, name: str, task: TaskSpec, mean: float, windows: int) -> list[float]:
        hard = random.Random(f"{self.seed}/{model}/{task}")
        own = random.Random(f"{self.seed}/{model}/{task}/{name}/{len(self.records)}")
        return [
            mean * math.exp(hard.gauss(0, self.difficulty)) * math.exp(own.gauss(0, self.noise)) for _ in range(windows)
        ]
