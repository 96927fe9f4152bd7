"""The tables of a section: what was measured in torch; and, where engines ran, what they made of it, and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.cells import REFERENCE_METHOD
from slmquant.analysis.over_models import scores_over_models
from slmquant.analysis.scores import Score, ScoreOptions
from slmquant.report._columns import (
    ABOVE_CHANCE,
    ABSENT,
    SCORES,
    Column,
    Reading,
    best,
    columns,
    decimal,
    engine_columns,
    score_columns,
)
from slmquant.report._sections import Cell, Section, told_apart
from slmquant.store.record import Record

_OF_CELLS = (
    ABOVE_CHANCE, "bpw", "peak MB", "quant s", "added MB", "KL p99", "cons", "top-1 %", "perf > chance", "CPU s",
    "perf",
)  # fmt: skip
_OF_ENGINES = ("prefill tok/s", "RAM MB", "file MB")
_OF_SCORES = ("perf > chance",)


@dataclass(frozen=True)
class Field:
    """What one row says in one column, or None, and whether nothing in the column is better."""

    reading: Reading | None
    is_best: bool


@dataclass(frozen=True)
class Row:
    """One cell, or one cell on one engine; `heads` say which."""

    cell: Cell
    heads: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Table:
    """A table for the terminal and for the page.

    Attributes:
        title: What it is about.
        heads: Titles of what says which row it is.
        columns: The columns after those.
        rows: The rows.
        drop_order: Titles of columns that a narrow terminal does without, the first to go first.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    drop_order: tuple[str, ...]

    def without(self, titles: Sequence[str]) -> Table:
        """The same without columns of these titles."""
        kept = [place for place, column in enumerate(self.columns) if column.title not in titles]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(replace(row, fields=tuple(row.fields[place] for place in kept)) for row in self.rows),
        )


def tables(section: Section) -> list[Table]:
    """One table where nothing ran on an engine; else three, the last with the scores of all three tracks."""
    everything, engines = columns(section), section.engines
    if not engines:
        return [_of_cells("Every cell", section, everything, _OF_CELLS)]
    return [
        _of_cells("What was kept", section, [c for c in everything if c.title not in SCORES], _OF_CELLS),
        _of_engines(section, engines),
        _of_cells("The three tracks", section, score_columns(section), _OF_SCORES),
    ]


def _of_cells(title: str, section: Section, shown: Sequence[Column], drop_order: tuple[str, ...]) -> Table:
    winners = [best(column, section) for column in shown]
    rows = tuple(
        Row(
            cell,
            (cell.method, cell.record.spec.scheme),
            tuple(Field(c.read(cell), cell.record.cell_id in winner) for c, winner in zip(shown, winners, strict=True)),
        )
        for cell in section.cells
    )
    return Table(title, ("method", "scheme"), tuple(shown), rows, drop_order)


def _of_engines(section: Section, engines: Sequence[str]) -> Table:
    """Engine by engine, since speeds are compared on one engine; none is called the best, as none has its error."""
    shown = engine_columns(section)
    rows = []
    for engine in engines:
        ran = [cell for cell in section.cells if engine in cell.engines]
        rows += [
            Row(
                cell,
                (cell.method, cell.record.spec.scheme, engine),
                tuple(Field(column.read(cell.engines[engine]), False) for column in shown),
            )
            for cell in ran
        ]
    return Table("On engines", ("method", "scheme", "engine"), tuple(shown), tuple(rows), _OF_ENGINES)


@dataclass(frozen=True)
class OverModels:
    """Scores of methods over several models: heads, and a row of texts for each method and scheme."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def over_models(records: Sequence[Record], options: ScoreOptions) -> OverModels | None:
    """The table of `analysis.over_models`; None where no method was measured on two models."""
    found = [one for one in scores_over_models(records, options) if one.spec.method != REFERENCE_METHOD]
    if not found:
        return None
    engines = list(dict.fromkeys(engine for one in found for engine in one.infer))
    nothing, apart = Score(None), told_apart([one.spec for one in found])
    rows, reasons = [], list[str]()
    for one in found:
        scores = (one.perf, one.perf_above_chance, *(one.infer.get(e, nothing) for e in engines), one.cons)
        texts = (ABSENT if score.value is None else decimal(1)(score.value) for score in scores)
        method = one.spec.method + (f" ({apart[one.spec]})" if apart[one.spec] else "")
        rows.append((method, one.spec.scheme, str(len(one.models)), *texts))
        reasons += [f"{method} {one.spec.scheme}: {s.reason}" for s in scores if s.value is None and s.reason]
    heads = ("method", "scheme", "models", "perf", "perf > chance", *(f"infer {e}" for e in engines), "cons")
    order = "averaged, then squared" if options.expectation == "mean_then_square" else "squared, then averaged"
    models = dict.fromkeys(model for one in found for model in one.models)
    return OverModels(heads, tuple(rows), (f"Over {', '.join(models)}: ratios are {order}.", *dict.fromkeys(reasons)))
