"""Rules that compare models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slmquant.principles.common.cells import ModelCells, Text, calibration_of
from slmquant.principles.common.contract import Found, Need, Scale
from slmquant.principles.common.windows import Matched, PerWindow, in_logarithm
from slmquant.store.record import Record

_CHECKPOINT = re.compile(r"(?P<run>.*?)[-_/]?(?:checkpoint|step)[-_]?(?P<step>\d+)/?")
"""A checkpoint of a training run, by its name: `runs/mine/checkpoint-4000`, `mine-step4000`."""


@dataclass(frozen=True)
class LaterCheckpoints:
    """Evidence from checkpoints of one training run: how a later one differs from earlier ones in the same cells.

    Attributes:
        times: How many times the steps of the earlier one a later one has at least.
        command: Measures two checkpoints.
    """

    times: float
    command: str
    scale: Scale = "logarithm"

    def of(self, model: ModelCells, others: Sequence[ModelCells] = ()) -> Found:
        """The effect in a checkpoint, over all earlier ones."""
        lack = Need("two checkpoints of one training run, by names such as RUN/checkpoint-4000", self.command)
        here = _CHECKPOINT.fullmatch(model.model)
        if here is None:
            return Found(needs=(lack,))
        earlier = [
            other
            for other in others
            if (there := _CHECKPOINT.fullmatch(other.model)) is not None
            and there["run"] == here["run"]
            and int(there["step"]) * self.times <= int(here["step"])
        ]
        return PerWindow(lambda text: _of_both(text, earlier), lambda _: (lack,), self.scale).of(model)


def _of_both(text: Text, earlier: Sequence[ModelCells]) -> Iterable[Matched]:
    for other in earlier:
        for before in (each for each in other.texts if each.task == text.task):
            known = {_cell(record): record for record in before.records}
            for record in text.records:
                if (first := known.get(_cell(record))) is not None:
                    label = f"{record.spec.method}/{record.spec.scheme}: {other.model} → {record.spec.model}"
                    yield Matched(label, (first, record), in_logarithm((-1.0, 1.0)))


def _cell(record: Record) -> tuple[object, ...]:
    spec = record.spec
    return spec.method, spec.scheme, calibration_of(record), spec.budget, spec.compute_dtype, spec.seed
