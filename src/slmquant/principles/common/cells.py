"""The measured cells of a model, arranged so that cells equal in all but one thing stand together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from slmquant.schemes import parse
from slmquant.store.outdated import apart
from slmquant.store.record import CalibrationSpec, ItemOutcome, Metric, ModelCard, Record, TaskSpec

DIVERGENCE = "kl_mean"
"""The metric that principles compare: divergence from full precision, kept window by window."""

ReadItems = Callable[[str], Sequence[ItemOutcome]]
"""Returns the answers of a cell, given its id."""


class Cell(NamedTuple):
    """A method and a scheme, written `method/scheme`."""

    method: str
    scheme: str

    @classmethod
    def of(cls, text: str) -> Cell:
        """Read `method/scheme`.

        Raises:
            ValueError: There is no `/`.
            SchemeError: The scheme cannot be read.
        """
        method, slash, scheme = text.partition("/")
        if not slash:
            raise ValueError(f"cannot read cell {text!r}; expected method/scheme, such as rtn/W8A16")
        return cls(method.lower(), str(parse(scheme)))

    def __str__(self) -> str:
        return f"{self.method}/{self.scheme}"


@dataclass(frozen=True)
class Text:
    """Cells of one model on the same windows of a text, under the same conditions but for the calibration.

    Attributes:
        task: The text and its size, as `str(TaskSpec)`.
        records: The latest record of each cell.
        read_items: Reads the answers of a cell.
    """

    task: str
    records: tuple[Record, ...]
    read_items: ReadItems

    def alike(self) -> Iterator[Mapping[Cell, Record]]:
        """Cells that were also calibrated alike and learned with one budget; those that need neither are in each."""
        calibrations = dict.fromkeys(calibration_of(r) for r in self.records if r.spec.calibration)
        budgets = dict.fromkeys(r.spec.budget for r in self.records if r.spec.budget)
        for calibration in calibrations or [(None, None)]:
            for budget in budgets or [None]:
                yield {
                    Cell(record.spec.method, record.spec.scheme): record
                    for record in self.records
                    if (record.spec.calibration is None or calibration_of(record) == calibration)
                    and record.spec.budget in (None, budget)
                }

    def divergences(self, record: Record) -> dict[int, float]:
        """Position of each window in the text → the mean divergence there, in nats; empty if it was not stored."""
        return {
            int(outcome.item): outcome.values[DIVERGENCE]
            for outcome in self.read_items(record.cell_id)
            if outcome.task == self.task and DIVERGENCE in outcome.values and outcome.item.isdecimal()
        }


@dataclass(frozen=True)
class ModelCells:
    """The measured cells of one model.

    Attributes:
        model: The model's source, as given.
        sha256: Fingerprint of its weights.
        card: Facts about it; None if no record has them.
        texts: Its texts with divergences, the one with the most cells first.
        records: All of its measured cells that ran in torch, by the time they finished.
    """

    model: str
    sha256: str
    card: ModelCard | None
    texts: tuple[Text, ...]
    records: tuple[Record, ...]


def models_of(records: Iterable[Record], read_items: ReadItems) -> list[ModelCells]:
    """The models of some records, without failed cells, cells on engines and outdated cells.

    Args:
        records: In the order in which they finished.
        read_items: Reads the answers of a cell.
    """
    kept, read_items = list(records), cache(read_items)
    outdated = apart(kept)
    of_model: dict[tuple[str, str], list[Record]] = {}
    for record in kept:
        spec = record.spec
        if record.status == "ok" and spec.engine is None and record.cell_id not in outdated:
            of_model.setdefault((spec.model, spec.model_sha256), []).append(record)
    return [
        ModelCells(
            model,
            sha256,
            next((r.model for r in reversed(measured) if r.model is not None), None),
            _texts(measured, read_items),
            tuple(measured),
        )
        for (model, sha256), measured in of_model.items()
    ]


def calibration_of(record: Record) -> tuple[CalibrationSpec | None, str | None]:
    """The calibration set of a cell, and the hash of the text that its windows were drawn from."""
    inputs = record.spec.inputs
    return record.spec.calibration, None if inputs is None else inputs.calibration_sha256


def _texts(records: Sequence[Record], read_items: ReadItems) -> tuple[Text, ...]:
    groups: dict[tuple[str, object], dict[object, Record]] = {}
    for record in records:
        for task in record.spec.tasks:
            metric = record.metric(DIVERGENCE, str(task))
            if metric is not None and not record.spec.is_reference:
                spec = record.spec
                cell = spec.method, spec.scheme, calibration_of(record), spec.budget
                groups.setdefault((str(task), _conditions(record, task, metric)), {})[cell] = record
    texts = [Text(task, tuple(cells.values()), read_items) for (task, _), cells in groups.items()]
    return tuple(sorted(texts, key=lambda text: -len(text.records)))


def _conditions(record: Record, task: TaskSpec, metric: Metric) -> tuple[object, ...]:
    """Everything but method, scheme and calibration that decides a divergence."""
    spec, inputs = record.spec, record.spec.inputs
    files = None
    if inputs is not None:
        files = inputs.config_sha256, inputs.tokenizer_sha256, dict(inputs.data_sha256).get(task.name)
    return metric.version, metric.protocol, spec.compute_dtype, spec.device, spec.seed, files
