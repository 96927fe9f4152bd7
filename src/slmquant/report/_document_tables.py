"""Markdown tables of published cells, as requested by the comments of a document (see `published`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slmquant.analysis.cells import full_precision_of, text_tasks
from slmquant.analysis.intervals import Interval, interval_of
from slmquant.analysis.pairs import Pairs
from slmquant.errors import StoreError
from slmquant.report._document_cells import (
    ABSENT,
    Answers,
    calibration_seed,
    chosen_of,
    each_of,
    markdown,
    method_of,
    short_name,
    value_of,
)
from slmquant.report._document_costs import costs
from slmquant.report._document_reports import over_models_table, report, report_engines, report_notes
from slmquant.store.export import calibration_label
from slmquant.store.record import Record

__all__ = ["TABLES", "Answers", "markdown"]


def _cells(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """Table of every cell that matches `wanted`, and the conditions under which they were measured."""
    chosen = [r for r in chosen_of(records, wanted) if not r.spec.is_reference]
    if not chosen:
        raise StoreError(f"no published cell matches {wanted!r}; check model=, scheme=, method= and seed=")
    texts: list[str | None] = [*text_tasks([r for r in chosen if r.status == "ok"])] or [None]
    measured = sorted((r for r in chosen if r.status == "ok"), key=lambda r: value_of(r, "kl_mean", texts[0]))
    with_seed = len({seed for r in measured if (seed := calibration_seed(r)) is not None}) > 1
    rows = [
        _row(record, full_precision_of(record, records), texts, answers, with_seed=with_seed) for record in measured
    ]
    heads = ["method", "scheme", "MB", "perplexity", "KL, nats", "added loss, nats", "top-1"]
    heads += [f"KL on {short_name(text)}" for text in texts[1:]]
    rows += [_ended(record, len(heads)) for record in chosen if record.status != "ok"]
    first = measured[0] if measured else chosen[0]
    return markdown(heads, rows) + "\n" + _conditions(chosen, full_precision_of(first, records), texts) + "\n"


def _row(
    record: Record, reference: Record | None, texts: Sequence[str | None], answers: Answers, *, with_seed: bool
) -> tuple[str, ...]:
    text = texts[0]
    added = ABSENT if reference is None else _difference("perplexity", text, reference, record, answers)
    size, agreement = record.metric("stored_bytes"), record.metric("top1_agreement", text)
    return (
        method_of(record, with_seed=with_seed),
        record.spec.scheme,
        ABSENT if size is None else f"{size.value / 1e6:.1f}",
        _figure(record, "perplexity", text, ".2f"),
        _figure(record, "kl_mean", text, ".4f"),
        added,
        ABSENT if agreement is None else f"{100 * agreement.value:.1f} %",
        *(_figure(record, "kl_mean", other, ".4f") for other in texts[1:]),
    )


def _ended(record: Record, columns: int) -> tuple[str, ...]:
    reason = (record.reason or "").replace("|", "\\|").replace("\n", " ")
    return f"`{record.spec.method}`", record.spec.scheme, f"{record.status}: {reason}", *[ABSENT] * (columns - 3)


def _figure(record: Record, name: str, task: str | None, form: str) -> str:
    metric = record.metric(name, task)
    return ABSENT if metric is None else _with_interval(metric.value, interval_of(metric), form)


def _with_interval(value: float, interval: Interval | None, form: str, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    text = f"{value:{sign}{form}}"
    return text if interval is None else f"{text} [{interval.low:{sign}{form}}, {interval.high:{sign}{form}}]"


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two cells of one model, calibration seed and text; `b` is compared with `a`."""

    a: Record
    b: Record
    text: str | None


def _pairs(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """Table of pairs of cells, on every model, calibration seed and text that has both."""
    pairs = [pair for names in wanted.split(",") for pair in _paired(records, names)]
    varying: dict[str, Callable[[_Pair], object]] = {
        "model": lambda pair: pair.a.spec.model,
        "text": lambda pair: short_name(pair.text),
        "seed": lambda pair: _seed_of(pair),
    }
    varying = {head: value for head, value in varying.items() if len({value(pair) for pair in pairs}) > 1}
    rows = [
        (
            f"`{pair.a.spec.method}`",
            f"`{pair.b.spec.method}`",
            pair.a.spec.scheme
            if pair.a.spec.scheme == pair.b.spec.scheme
            else f"{pair.a.spec.scheme} → {pair.b.spec.scheme}",
            *(str(value(pair)) for value in varying.values()),
            *(_difference(name, pair.text, pair.a, pair.b, answers) for name in ("kl_mean", "perplexity")),
        )
        for pair in pairs
    ]
    return markdown(("from", "to", "scheme", *varying, "KL, nats", "loss, nats"), rows)


def _seed_of(pair: _Pair) -> int | None:
    seeds = {seed for record in (pair.a, pair.b) if (seed := calibration_seed(record)) is not None}
    return next(iter(seeds), None)


def _paired(records: Sequence[Record], names: str) -> list[_Pair]:
    """The pairs of cells that match `names`, two labels of the form `[model/]method/scheme`.

    Raises:
        StoreError: `names` is not two labels, or no two matching cells were measured alike.
    """
    words = names.split()
    if len(words) != 2:
        raise StoreError(f"cannot compare {names.strip()!r}; expected two cells, such as 'rtn/W8A8 gptq/W8A8'")
    first, second = (_named(records, word) for word in words)
    found = []
    for a in first:
        for b in second:
            seeds = {seed for record in (a, b) if (seed := calibration_seed(record)) is not None}
            if a.spec.model == b.spec.model and a.spec.tasks == b.spec.tasks and len(seeds) < 2:
                texts: list[str | None] = [*text_tasks([a, b])] or [None]
                found += [_Pair(a, b, text) for text in texts]
    if not found:
        raise StoreError(f"no cell {words[0]!r} has the same model, tasks and calibration seed as a cell {words[1]!r}")
    return found


def _named(records: Sequence[Record], name: str) -> list[Record]:
    """The measured cells with the label `[model/]method/scheme`.

    Raises:
        StoreError: There is none.
    """
    found = [r for r in records if r.status == "ok" and f"/{r.spec.label}".endswith(f"/{name}")]
    if not found:
        raise StoreError(f"no published cell has the label {name!r}; expected [model/]method/scheme")
    return found


def _difference(name: str, task: str | None, a: Record, b: Record, answers: Answers) -> str:
    """`b − a` with its interval, for a perplexity in nats of the loss; empty if not measured."""
    metric = a.metric(name, task)
    if metric is None or b.metric(name, task) is None:
        return ABSENT
    pairs = Pairs.of(metric, answers.get(a.cell_id, ()), answers.get(b.cell_id, ()))
    if pairs is None or not pairs.complete:
        return ABSENT
    estimate = pairs.estimate()
    return _with_interval(
        statistics.fmean(pairs.differences), None if estimate is None else estimate.interval(), ".4f", signed=True
    )


def _conditions(chosen: Sequence[Record], reference: Record | None, texts: Sequence[str | None]) -> str:
    """One line: model, calibration, texts, compute dtype, machine, and the perplexity of full precision."""
    measured = [r for r in chosen if r.status == "ok"] or list(chosen)
    record = measured[0]
    provenance = "" if record.model is None else f" ({record.model.provenance})"
    parts = [f"{record.spec.model}{provenance}"]
    if labels := each_of(calibration_label(r.spec.calibration) for r in measured):
        parts.append(f"calibrated on {labels}")
    protocols = (metric.protocol for text in texts if (metric := record.metric("perplexity", text)) is not None)
    if measured_on := each_of(protocols):
        parts.append(f"measured on {measured_on}")
    machines = each_of(f"{r.environment.cpu}, {r.environment.threads} threads" for r in measured)
    parts.append(f"computed in {each_of(r.spec.compute_dtype for r in measured)} on {machines}")
    if reference is not None and (whole := _figure(reference, "perplexity", texts[0], ".2f")):
        parts.append(f"full precision has perplexity {whole}")
    return "; ".join(parts) + ". In brackets: 95 % intervals."


TABLES: Mapping[str, Callable[[Sequence[Record], Answers, str], str]] = {
    "cells": _cells,
    "pairs": _pairs,
    "report": report,
    "notes": report_notes,
    "engines": report_engines,
    "models": over_models_table,
    "costs": costs,
}
"""Kind of table → its function of (records, answers, arguments of the comment)."""
