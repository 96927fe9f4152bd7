"""Tables of documents, filled in from published cells: no figure of a document is typed by hand.

    python -m slmquant.report.published README.md docs/*.md

A table stands between two comments, of which the first says what it shows:

    <!-- cells results/published/weights.jsonl scheme=W4A16g64 -->
    <!-- pairs results/published/weights.jsonl gptq/W4A16g64 gptq_sink/W4A16g64, awq/W4A16g64 autoround/W4A16g64 -->
    <!-- report results/published/demo.jsonl -->
    <!-- end -->

`cells` prints every cell of the file that matches, whatever became of it: those that were measured, by divergence, then
those that were refused or failed, with the reason. `model=`, `scheme=` and `method=` choose among them. `pairs`
compares two cells at a time by divergence and by loss. `report` is the first table that `slmquant report` prints of
the file, with all of its columns. Differences are paired over the windows of the text, and intervals are those of
`slmquant compare`.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from slmquant.analysis.cells import full_precision_of, is_reference, text_tasks
from slmquant.analysis.intervals import Interval, interval_of
from slmquant.analysis.pairs import Pairs
from slmquant.errors import StoreError
from slmquant.files import atomic_file
from slmquant.report._sections import sections
from slmquant.report._tables import Field, tables
from slmquant.store.export import calibration_label
from slmquant.store.jsonlines import read_cells
from slmquant.store.record import ItemOutcome, Record

__all__ = ["fill_in", "main"]

_BLOCK = re.compile(r"(<!-- (cells|pairs|report) (\S+)(.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_CHOICES = ("model", "scheme", "method")
_ABSENT = ""

Answers = Mapping[str, Sequence[ItemOutcome]]


def fill_in(text: str, folder: Path) -> str:
    """A document with its tables made anew from the files that it names, relative to `folder`.

    Raises:
        StoreError: A file cannot be read, or a table names cells that it does not hold.
    """

    def table(found: re.Match[str]) -> str:
        opening, kind, path, wanted, _, closing = found.groups()
        return f"{opening}{_KINDS[kind](*_read(folder / path), wanted.strip())}{closing}"

    return _BLOCK.sub(table, text)


def main(paths: Sequence[str]) -> int:
    """Fill in the tables of each document; they name files relative to the current folder."""
    for path in map(Path, paths):
        filled = fill_in(path.read_text(encoding="utf-8"), Path.cwd())
        with atomic_file(path) as temporary:
            temporary.write_text(filled, encoding="utf-8")
    return 0


@cache
def _read(path: Path) -> tuple[list[Record], Answers]:
    return read_cells(path)


def _cells(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """Every cell that is wanted, and under which conditions all of them were measured."""
    choice = dict(part.split("=", 1) for part in wanted.split())
    if unknown := set(choice) - set(_CHOICES):
        raise StoreError(f"a table chooses by {', '.join(sorted(unknown))}; expected {', '.join(_CHOICES)}")
    chosen = [r for r in records if not is_reference(r) and all(_says(r, *one) for one in choice.items())]
    if not chosen:
        raise StoreError(f"no published cell matches {wanted!r}")
    task = next(iter(text_tasks([r for r in chosen if r.status == "ok"])), None)
    measured = sorted((r for r in chosen if r.status == "ok"), key=lambda r: _value(r, "kl_mean", task))
    rows = [_row(record, full_precision_of(record, records), task, answers) for record in measured]
    rows += [_ended(record) for record in chosen if record.status != "ok"]
    heads = ("method", "scheme", "MB", "perplexity", "KL, nats", "added loss, nats", "top-1")
    first = measured[0] if measured else chosen[0]
    return _markdown(heads, rows) + "\n" + _conditions(first, full_precision_of(first, records), task) + "\n"


def _says(record: Record, field: str, value: str) -> bool:
    return str(getattr(record.spec, field)) == value


def _value(record: Record, name: str, task: str | None) -> float:
    metric = record.metric(name, task)
    return float("inf") if metric is None else metric.value


def _row(record: Record, reference: Record | None, task: str | None, answers: Answers) -> tuple[str, ...]:
    added = _ABSENT if reference is None else _difference("perplexity", task, reference, record, answers)
    size, agreement = record.metric("stored_bytes"), record.metric("top1_agreement", task)
    return (
        f"`{record.spec.method}`" + (f", `{record.spec.budget}`" if record.spec.budget else ""),
        record.spec.scheme,
        _ABSENT if size is None else f"{size.value / 1e6:.1f}",
        _figure(record, "perplexity", task, ".2f"),
        _figure(record, "kl_mean", task, ".4f"),
        added,
        _ABSENT if agreement is None else f"{100 * agreement.value:.1f} %",
    )


def _ended(record: Record) -> tuple[str, ...]:
    reason = (record.reason or "").replace("|", "\\|").replace("\n", " ")
    return f"`{record.spec.method}`", record.spec.scheme, f"{record.status}: {reason}", *[_ABSENT] * 4


def _figure(record: Record, name: str, task: str | None, form: str) -> str:
    metric = record.metric(name, task)
    return _ABSENT if metric is None else _with_interval(metric.value, interval_of(metric), form)


def _with_interval(value: float, interval: Interval | None, form: str, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    text = f"{value:{sign}{form}}"
    return text if interval is None else f"{text} [{interval.low:{sign}{form}}, {interval.high:{sign}{form}}]"


def _pairs(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """Two cells at a time, the second seen from the first."""
    rows = []
    for pair in wanted.split(","):
        names = pair.split()
        if len(names) != 2:
            raise StoreError(f"a table compares {pair.strip()!r}; expected two cells, as in 'rtn/W8A8 gptq/W8A8'")
        a, b = (_named(records, name) for name in names)
        task = next(iter(text_tasks([a, b])), None)
        differences = [_difference(name, task, a, b, answers) for name in ("kl_mean", "perplexity")]
        rows.append((f"`{a.spec.method}`", f"`{b.spec.method}`", a.spec.scheme, *differences))
    return _markdown(("from", "to", "scheme", "KL, nats", "loss, nats"), rows)


def _report(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """The table of every cell, as `slmquant report` has it; of several models one below the other."""
    if wanted:
        raise StoreError(f"a report takes the whole file; {wanted!r} says nothing to it")
    parts = []
    for section in sections(records, answers=answers):
        table = tables(section)[0]
        heads = [*table.heads, *(column.title for column in table.columns)]
        parts.append(_markdown(heads, [[*row.heads, *map(_field, row.fields)] for row in table.rows]))
    return "\n".join(parts)


def _field(field: Field) -> str:
    if field.reading is None:
        return _ABSENT
    text = f"**{field.reading.text}**" if field.is_best else field.reading.text
    if field.reading.interval is not None:
        return f"{text} {field.reading.interval}"
    return text if field.reading.stderr is None else f"{text} ± {field.reading.stderr:.2g}"


def _named(records: Sequence[Record], name: str) -> Record:
    """The one cell that is called `[model/]method/scheme`.

    Raises:
        StoreError: There is none, or more than one.
    """
    found = [record for record in records if f"/{record.spec.label}".endswith(f"/{name}")]
    if len(found) != 1:
        raise StoreError(f"{len(found)} published cells are called {name!r}; expected one")
    return found[0]


def _difference(name: str, task: str | None, a: Record, b: Record, answers: Answers) -> str:
    """`b − a` of a divergence or, of a perplexity, of the loss, with its interval; empty where it was not measured."""
    metric = a.metric(name, task)
    if metric is None or b.metric(name, task) is None:
        return _ABSENT
    pairs = Pairs.of(metric, answers.get(a.cell_id, ()), answers.get(b.cell_id, ()))
    if pairs is None or not pairs.complete:
        return _ABSENT
    estimate = pairs.estimate()
    return _with_interval(
        statistics.fmean(pairs.differences), None if estimate is None else estimate.interval(), ".4f", signed=True
    )


def _conditions(record: Record, reference: Record | None, task: str | None) -> str:
    """Model, calibration, text, numbers computed in and machine, and what full precision scored."""
    spec, model = record.spec, record.model
    provenance = "" if model is None else f" ({model.provenance})"
    parts = [f"{spec.model}{provenance}"]
    if (label := calibration_label(spec.calibration)) is not None:
        parts.append(f"calibrated on {label}")
    metric = record.metric("perplexity", task)
    if metric is not None and metric.protocol is not None:
        parts.append(f"measured on {metric.protocol}")
    parts.append(f"computed in {spec.compute_dtype} on {record.environment.cpu}, {record.environment.threads} threads")
    if reference is not None and (whole := _figure(reference, "perplexity", task, ".2f")):
        parts.append(f"full precision has perplexity {whole}")
    return "; ".join(parts) + ". In brackets: 95 % intervals."


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows]
    return "\n".join(lines) + "\n"


_KINDS: Mapping[str, Callable[[Sequence[Record], Answers, str], str]] = {
    "cells": _cells,
    "pairs": _pairs,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
