"""The tables of a section: results in torch and, if engines ran, results on engines and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from slmquant.report._costs import cost_columns
from slmquant.report._sections import Cell, Section, told_apart
from slmquant.store.record import REFERENCE, Record

_OF_CELLS = (
    "device MB", "energy J",
    ABOVE_CHANCE, "bpw", "peak MB", "quant s", "added MB", "KL p99", "cons", "top-1 %", "perf > chance", "CPU s",
    "perf",
)  # fmt: skip
_OF_ENGINES = ("prefill tok/s", "RAM MB", "file MB")
_OF_SCORES = ("perf > chance",)


@dataclass(frozen=True)
class Field:
    """One row's reading in one column (None if absent), and whether it is among the best."""

    reading: Reading | None
    is_best: bool


@dataclass(frozen=True)
class Row:
    """One cell, or one cell on one engine, named by `heads`."""

    cell: Cell
    heads: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Table:
    """A table for the terminal and for the page.

    Attributes:
        title: Its title.
        heads: Titles of the columns that identify a row.
        columns: The columns after those.
        rows: The rows.
        drop_order: Titles of columns to drop on a narrow terminal, in this order.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    drop_order: tuple[str, ...]

    def without(self, titles: Sequence[str]) -> Table:
        """The table without the columns of these titles."""
        kept = [place for place, column in enumerate(self.columns) if column.title not in titles]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(replace(row, fields=tuple(row.fields[place] for place in kept)) for row in self.rows),
        )


def tables(section: Section) -> list[Table]:
    """One table if nothing ran on an engine; else three, the last with the scores of all tracks."""
    everything, engines = [*columns(section), *cost_columns(section)], section.engines
    if not engines:
        return [_of_cells("All cells", section, everything, _OF_CELLS)]
    return [
        _of_cells("Model quality", section, [c for c in everything if c.title not in SCORES], _OF_CELLS),
        _of_engines(section, engines),
        _of_cells("Scores of the three tracks", section, score_columns(section), _OF_SCORES),
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
    """Table by engine, as speeds compare only on one engine; none is marked best, as they have no error."""
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
    """Table of scores over several models: heads, one row of texts per method and scheme, and notes."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def over_models(records: Sequence[Record], options: ScoreOptions) -> OverModels | None:
    """The table of `analysis.over_models`; None if no method was measured on two models."""
    over = [entry for entry in scores_over_models(records, options) if entry.spec.method != REFERENCE]
    if not over:
        return None
    engines = list(dict.fromkeys(engine for entry in over for engine in entry.infer))
    no_score, apart = Score(None), told_apart([entry.spec for entry in over])
    rows, without = [], dict[str, list[str]]()
    for entry in over:
        scores = (entry.perf, entry.perf_above_chance, *(entry.infer.get(e, no_score) for e in engines), entry.cons)
        texts = (ABSENT if score.value is None else decimal(1)(score.value) for score in scores)
        method = entry.spec.method + (f" ({apart[entry.spec]})" if apart[entry.spec] else "")
        rows.append((method, entry.spec.scheme, str(len(entry.models)), *texts))
        for reason in dict.fromkeys(score.reason for score in scores if score.value is None and score.reason):
            without.setdefault(reason, []).append(f"{method} {entry.spec.scheme}")
    heads = ("method", "scheme", "models", "perf", "perf > chance", *(f"infer {e}" for e in engines), "cons")
    order = "averaged, then squared" if options.expectation == "mean_then_square" else "squared, then averaged"
    models = dict.fromkeys(model for entry in over for model in entry.models)
    missing = (
        f"{'all' if len(cells) == len(over) else ', '.join(cells)}: {reason}" for reason, cells in without.items()
    )
    return OverModels(heads, tuple(rows), (f"Over {', '.join(models)}: ratios are {order}.", *missing))
