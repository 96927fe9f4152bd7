"""Effects estimated from the divergences of matched cells, window by window.

A contrast is mostly a weighted sum over cells, such as "this one minus that one", of the logarithm of a window's mean
divergence, or of the divergence itself. It is computed on each window, so that what makes a window hard for every cell
cancels, and its mean over the windows has the error of `analysis.serial`, which allows for correlated neighbours.

A model's effect is the mean over its contrasts: first within each text, window by window, as contrasts on the same
windows are not independent; then over the texts, which are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.difference import FEW_WINDOWS, FEWEST_WINDOWS
from slmquant.analysis.intervals import CONFIDENCE
from slmquant.analysis.means import IndependentMeans
from slmquant.analysis.serial import SeriesMean, series_mean
from slmquant.principles.common.cells import Cell, ModelCells, Text
from slmquant.principles.common.contract import Finding, Found, Need, Scale
from slmquant.principles.common.needs import need
from slmquant.store.record import Record, task_name

__all__ = ["Contrast", "Matched", "PerWindow", "change", "compared", "interaction", "level"]

Combine = Callable[[Sequence[float]], float]
"""Makes one number of the divergences of several cells on a window."""


@dataclass(frozen=True)
class Matched:
    """Records that are equal in all but what is compared.

    Attributes:
        label: What is compared.
        records: The records.
        combine: Makes the effect on a window of their divergences there.
    """

    label: str
    records: tuple[Record, ...]
    combine: Combine


@dataclass(frozen=True)
class Contrast:
    """A weighted sum over cells that were measured under one set of conditions.

    Attributes:
        label: What is compared.
        cells: The cells.
        weights: The weight of each cell.
    """

    label: str
    cells: tuple[Cell, ...]
    weights: tuple[float, ...]


def level(cell: str) -> Contrast:
    """A cell by itself: its divergence from full precision."""
    return Contrast(cell, (Cell.of(cell),), (1.0,))


def change(before: str, after: str) -> Contrast:
    """What changes from one cell to another."""
    return Contrast(f"{before} → {after}", (Cell.of(before), Cell.of(after)), (-1.0, 1.0))


def interaction(before: tuple[str, str], after: tuple[str, str]) -> Contrast:
    """How much more the second pair of cells changes than the first."""
    cells = tuple(map(Cell.of, (*before, *after)))
    return Contrast(f"{' → '.join(after)}, against {' → '.join(before)}", cells, (1.0, -1.0, -1.0, 1.0))


def compared(*contrasts: Contrast, scale: Scale = "logarithm") -> PerWindow:
    """Evidence from contrasts of named cells; one of them suffices."""

    def combine(weights: tuple[float, ...]) -> Combine:
        return in_logarithm(weights) if scale == "logarithm" else lambda values: weighted(weights, values)

    def find(text: Text) -> Iterable[Matched]:
        for records in text.alike():
            for one in contrasts:
                if all(cell in records for cell in one.cells):
                    yield Matched(one.label, tuple(records[cell] for cell in one.cells), combine(one.weights))

    return PerWindow(find, lambda model: tuple(need(model, one.cells) for one in contrasts), scale)


def weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    """The weighted sum of some values."""
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def in_logarithm(weights: Sequence[float]) -> Combine:
    """The weighted sum of the logarithms of divergences."""
    return lambda values: weighted(weights, list(map(math.log, values)))


@dataclass(frozen=True)
class Unanimous:
    """A mean over windows that are all equal, so that their spread is not known.

    Attributes:
        mean: The value of each window.
        windows: Number of windows.
    """

    mean: float
    windows: int
    stderr: None = None

    def interval(self, confidence: float = CONFIDENCE) -> None:
        """None: there is no spread."""

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p of the sign test: that all windows fall on one side of `null` by chance."""
        return 1.0 if self.mean == null else 2 * 0.5**self.windows


@dataclass(frozen=True)
class PerWindow:
    """Evidence from divergences of matched cells; see the module.

    Attributes:
        find: Returns the matched records of a text.
        lacking: Returns what to measure in a model without any.
        scale: Unit of the effect.
    """

    find: Callable[[Text], Iterable[Matched]]
    lacking: Callable[[ModelCells], tuple[Need, ...]]
    scale: Scale = "logarithm"

    def of(self, model: ModelCells, others: Sequence[ModelCells] = ()) -> Found:
        """The effect in one model, whatever it is in others."""
        del others
        findings: dict[object, Finding] = {}
        remarks: dict[str, None] = {}
        series: dict[str, list[dict[int, float]]] = {}
        for text in model.texts:
            for matched in self.find(text):
                cells = tuple(record.cell_id for record in matched.records)
                if (cells, text.task) in findings:
                    continue
                values = _effects(text, matched, self.scale)
                if isinstance(values, str):
                    remarks[f"{matched.label} on {text.task}: {values}"] = None
                    continue
                mean = _mean(values)
                findings[cells, text.task] = Finding(
                    matched.label, text.task, cells, mean.mean, mean.interval(), len(values)
                )
                series.setdefault(text.task, []).append(values)
        means = [_mean(_averaged(several)) for several in _largest(series)]
        return Found(
            tuple(findings.values()),
            _over_texts(means) if means else None,
            sum(mean.windows for mean in means),
            needs=() if findings else self.lacking(model),
            remarks=tuple(remarks),
        )


def _effects(text: Text, matched: Matched, scale: Scale) -> dict[int, float] | str:
    """Position of each window → the effect there; or why there is none."""
    of_cells = [text.divergences(record) for record in matched.records]
    windows = [position for position in of_cells[0] if all(position in of_cell for of_cell in of_cells)]
    if not windows:
        return "the divergences of single windows were not stored"
    if len(windows) < FEWEST_WINDOWS:
        return FEW_WINDOWS.format(len(windows), FEWEST_WINDOWS)
    if scale == "logarithm" and any(of_cell[position] <= 0 for of_cell in of_cells for position in windows):
        return "a divergence of 0 has no logarithm"
    return {position: matched.combine([of_cell[position] for of_cell in of_cells]) for position in windows}


def _mean(values: Mapping[int, float]) -> SeriesMean:
    return series_mean(tuple(values.values()), positions=tuple(values))


def _averaged(several: Sequence[Mapping[int, float]]) -> dict[int, float]:
    windows = max(several, key=len).keys()
    alike = [values for values in several if values.keys() == windows]
    return {position: statistics.fmean(values[position] for values in alike) for position in windows}


def _largest(series: Mapping[str, list[dict[int, float]]]) -> list[list[dict[int, float]]]:
    """Of tasks on the same text only the one with the most windows, as they share windows."""
    chosen: dict[str, list[dict[int, float]]] = {}
    for task, several in series.items():
        name = task_name(task)
        if name not in chosen or len(several[0]) > len(chosen[name][0]):
            chosen[name] = several
    return list(chosen.values())


def _over_texts(means: Sequence[SeriesMean]) -> IndependentMeans | Unanimous:
    """The mean over independent texts, with Satterthwaite's degrees of freedom."""
    mean = statistics.fmean(of_text.mean for of_text in means)
    errors = [(of_text.stderr or 0.0, of_text.freedom or 1.0) for of_text in means]
    variance = sum(stderr**2 for stderr, _ in errors)
    if variance <= (_NO_SPREAD * mean) ** 2:
        return Unanimous(mean, sum(of_text.windows for of_text in means))
    freedom = variance**2 / sum(stderr**4 / freedom for stderr, freedom in errors)
    return IndependentMeans(mean, math.sqrt(variance) / len(means), freedom)


_NO_SPREAD = 1e-9
"""Relative to the mean: a smaller standard error is 0 but for rounding."""
