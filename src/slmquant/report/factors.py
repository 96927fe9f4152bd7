"""Effects of factors, for the terminal and as words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from slmquant.analysis.factors import PLACEBO, Difference, Effect, Study
from slmquant.boundary import printable
from slmquant.report._columns import ABSENT, p_value

HEADS = (
    "factor", "level", "divergence [95 %]", "p (Holm)", "seeds", "could be seen", "loss [95 %]", "parameters",
)  # fmt: skip
"""Columns of the summary."""


def summary(study: Study) -> list[tuple[str, ...]]:
    """A row of `HEADS` for each level."""
    return [_row(effect) for effect in study.effects]


def by_cell(study: Study) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of each level's effect in each cell."""
    labels = list(dict.fromkeys(label for effect in study.effects for label in effect.cells))
    rows = [
        (effect.factor, effect.level, *(_ratio(effect.cells[label]) for label in labels)) for effect in study.effects
    ]
    return ("factor", "level", *labels), rows


def study_report(study: Study) -> RenderableType:
    """The summary, the effects in each cell, and the remarks."""
    parts: list[RenderableType] = [_table(HEADS, summary(study))]
    heads, rows = by_cell(study)
    if len(heads) > 3:
        parts.append(_table(heads, rows))
    parts += [Text(printable(sentence), style="dim") for sentence in footnotes(study)]
    return Group(*parts)


def footnotes(study: Study) -> list[str]:
    """What the columns are, and the study's remarks."""
    return [
        "divergence: that of the level over that of the base, paired within seeds, mean over methods and schemes; "
        "× 1 is no effect, and the placebo should include it",
        "could be seen: the least ratio that so many seeds show with a power of 80 %, before correction",
        "loss: full-precision loss of the level minus that of the base, in nats per token",
        *study.remarks,
    ]


def _row(effect: Effect) -> tuple[str, ...]:
    seen = ABSENT if effect.smallest is None else f"× {math.exp(effect.smallest):.2f}"
    return (
        effect.factor, effect.level, _ratio(effect.divergence),
        f"{p_value(effect.p)} (alone)" if effect.factor == PLACEBO else p_value(effect.p_corrected),
        str(effect.divergence.n), seen, _nats(effect.loss), f"{effect.parameters - 1:+.1%}",
    )  # fmt: skip


def _ratio(difference: Difference) -> str:
    return "× " + _around(difference, lambda value: f"{math.exp(value):.2f}")


def _nats(difference: Difference) -> str:
    return _around(difference, lambda value: f"{value:+.3f}")


def _around(difference: Difference, words: Callable[[float], str]) -> str:
    ends = difference.interval
    around = "" if ends is None else f" [{words(ends.low)}, {words(ends.high)}]"
    return words(difference.value) + around


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
