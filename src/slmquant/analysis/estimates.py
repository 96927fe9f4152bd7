"""Estimates what a cell will cost, from what recorded cells did cost.

Processor time is taken as proportional to the number of parameters, that of a capture also to the number of calibration
tokens, and that of evaluation to the number of items and windows. Each part is the median over the most similar
records: those of the same method and scheme, else of the same method; for evaluation also of any cell with these tasks.
Memory is the median over the same method on models of the same size. What no record tells is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from slmquant.store.record import CalibrationSpec, CellSpec, Record, TaskSpec

_SAME_SIZE = 0.1
"""Largest relative difference in parameters between models whose memory is alike."""
_EVALUATE = "evaluate"


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a cell.

    Attributes:
        cpu_s: Seconds of processor time, over all threads, with the capture; None if no record tells.
        capture_s: The capture's part of it, which cells may share.
        peak_bytes: Peak resident memory; None if no record tells.
        records: Number of records that the time rests on; of two parts, the smaller number.
    """

    cpu_s: float | None
    capture_s: float
    peak_bytes: int | None
    records: int


@dataclass(frozen=True)
class _Sample:
    """What one record tells.

    Attributes:
        prepare: Processor seconds per parameter until the model is quantized, without the capture.
        capture: The same of the capture, per calibration token.
        evaluate: The same of evaluation, per item.
    """

    spec: CellSpec
    parameters: int
    prepare: float
    capture: float
    evaluate: float | None
    peak_bytes: int


class Costs:
    """What recorded cells tell about the cost of others.

    Args:
        records: Records, best of one kind of machine.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._samples = [sample for record in records if (sample := _sample(record)) is not None]

    def __len__(self) -> int:
        return len(self._samples)

    def estimate(self, spec: CellSpec, parameters: int) -> Estimate:
        """The expected cost of a cell of a model with that many parameters."""
        same_method = self._of(lambda other: (other.method, other.budget, other.device), spec)
        prepared = [s for s in same_method if s.spec.scheme == spec.scheme] or same_method
        same_tasks = [sample for sample in self._of(_evaluation, spec) if sample.evaluate is not None]
        evaluated = next(
            (
                found
                for alike in (_method_and_scheme, _scheme, _activations, _anything)
                if (found := [s for s in same_tasks if alike(s.spec) == alike(spec)])
            ),
            [],
        )
        alike = [s.peak_bytes for s in same_method if abs(s.parameters / parameters - 1) <= _SAME_SIZE]
        peak_bytes = round(median(alike)) if alike else None
        items = _size(spec.tasks)
        if not prepared or not evaluated or items is None:
            return Estimate(None, 0.0, peak_bytes, 0)
        capture = parameters * median(s.capture for s in prepared) * _tokens(spec.calibration)
        evaluate = median(s.evaluate for s in evaluated if s.evaluate is not None) * items
        seconds = parameters * (median(s.prepare for s in prepared) + evaluate) + capture
        return Estimate(seconds, capture, peak_bytes, min(len(prepared), len(evaluated)))

    def _of(self, key: Callable[[CellSpec], object], spec: CellSpec) -> list[_Sample]:
        return [sample for sample in self._samples if key(sample.spec) == key(spec)]


def _evaluation(spec: CellSpec) -> object:
    return tuple(task.name for task in spec.tasks), spec.compute_dtype, spec.device


def _method_and_scheme(spec: CellSpec) -> object:
    return spec.method, spec.scheme


def _scheme(spec: CellSpec) -> object:
    return spec.scheme


def _activations(spec: CellSpec) -> object:
    return spec.is_reference, "A16" in spec.scheme


def _anything(spec: CellSpec) -> object:
    return spec.is_reference


def _tokens(calibration: CalibrationSpec | None) -> int:
    return 1 if calibration is None else calibration.num_samples * calibration.seq_len


def _size(tasks: Sequence[TaskSpec]) -> int | None:
    """Number of items of all tasks together; None if one is evaluated whole or stops early."""
    if any(task.limit is None or task.until_separated is not None for task in tasks):
        return None
    return sum(task.limit or 0 for task in tasks)


def _sample(record: Record) -> _Sample | None:
    if record.status != "ok" or record.model is None or record.spec.engine is not None:
        return None
    if any(phase.cpu_s is None for phase in record.phases) or not record.phases:
        return None
    seconds = {phase.name: phase.cpu_s or 0.0 for phase in record.phases}
    parameters, items = record.model.parameters, _size(record.spec.tasks)
    evaluate = seconds.pop(_EVALUATE, 0.0)
    capture = seconds.pop("capture", 0.0)
    return _Sample(
        spec=record.spec,
        parameters=parameters,
        prepare=sum(seconds.values()) / parameters,
        capture=capture / parameters / _tokens(record.spec.calibration),
        evaluate=evaluate / parameters / items if items else None,
        peak_bytes=max(phase.peak_rss_bytes or 0 for phase in record.phases),
    )
