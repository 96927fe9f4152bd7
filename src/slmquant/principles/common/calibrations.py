"""Effects of the calibration text: cells that are equal in all but their calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import permutations

from slmquant.principles.common.cells import Cell, ModelCells, Text
from slmquant.principles.common.contract import Need
from slmquant.principles.common.needs import need, usual_calibration
from slmquant.principles.common.windows import Matched, PerWindow, in_logarithm
from slmquant.store.export import calibration_label
from slmquant.store.record import CalibrationSpec, Record

Calibrations = tuple[CalibrationSpec, CalibrationSpec]

METHOD = Cell("gptq", "W4A16g64")
"""The cell to measure where a model has none: a method that depends on its calibration more than most."""


def calibrated(
    differ: Callable[[str, CalibrationSpec, CalibrationSpec], bool],
    suggest: Callable[[str, CalibrationSpec], Calibrations | None],
) -> PerWindow:
    """Evidence from pairs of cells that differ in their calibration.

    Args:
        differ: Whether two calibration sets of cells on a text, given as `str(TaskSpec)`, differ in what is compared
            and in nothing else, the first being the baseline.
        suggest: Two such sets to measure, given the text and the usual set of a model.
    """

    def find(text: Text) -> Iterable[Matched]:
        alike: dict[tuple[object, ...], list[tuple[CalibrationSpec, Record]]] = {}
        for record in text.records:
            if (calibration := record.spec.calibration) is not None:
                cell = record.spec.method, record.spec.scheme, record.spec.budget
                alike.setdefault(cell, []).append((calibration, record))
        for (method, scheme, _), records in alike.items():
            for (a, first), (b, second) in permutations(records, 2):
                if differ(text.task, a, b):
                    label = f"{method}/{scheme}: {calibration_label(a)} → {calibration_label(b)}"
                    yield Matched(label, (first, second), in_logarithm((-1.0, 1.0)))

    def lacking(model: ModelCells) -> tuple[Need, ...]:
        usual = usual_calibration(model) or CalibrationSpec()
        for task in [text.task for text in model.texts] or [""]:
            if sets := suggest(task, usual):
                others = () if not model.texts or task == model.texts[0].task else (task,)
                return tuple(need(model, [METHOD], one, others) for one in sets)
        return (Need(f"{model.model}: cells of one method, calibrated on two sets that differ in this alone", ""),)

    return PerWindow(find, lacking)


def only(name: str, a: CalibrationSpec, b: CalibrationSpec) -> bool:
    """Whether two calibration sets differ in this field alone."""
    return a != b and a == b.model_copy(update={name: getattr(a, name)})


__all__ = ["METHOD", "calibrated", "only"]
