"""Export records as flat rows for spreadsheets, data frames and other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from slmquant.files import atomic_file
from slmquant.store.outdated import apart
from slmquant.store.publication import published, publisher
from slmquant.store.record import CalibrationSpec, Metric, Phase, Record

Value = str | int | float | None
Row = dict[str, Value]

Ends = Callable[[Record, Metric], tuple[float, float] | None]
"""Function that returns the two ends of a metric's confidence interval, or None; callers supply it."""

METRIC_ORDER = (
    "bpw",
    "bpw_linears",
    "stored_bytes",
    "kv_bits",
    "perplexity",
    "kl_mean",
    "kl_median",
    "kl_p99",
    "kl_reverse_mean",
    "top1_agreement",
    "acc",
    "acc_norm",
    "chance",
    "quantize_s",
    "quantize_cpu_s",
    "quantize_peak_rss_bytes",
    "quantize_added_rss_bytes",
    "quantize_noise",
    "quantize_read_bytes",
    "quantize_written_bytes",
    "quantize_device_peak_bytes",
    "quantize_energy_j",
    "load_model_s",
    "calibration_tokens",
    "evaluate_s",
)
"""Column order of metrics; others follow by name."""


class Columns(NamedTuple):
    """Columns of the row of one record.

    Attributes:
        names: All of them, in the row's order.
        metrics: Name and task of each metric.
        phases: The columns of phases.
    """

    names: tuple[str, ...]
    metrics: tuple[tuple[str, str | None], ...]
    phases: tuple[str, ...]


def rows(records: Sequence[Record], ends: Ends | None = None) -> list[Row]:
    """One flat row per record; all rows have the same columns in the same order, with None for unknown values.

    The columns are identity and settings (`cell_id` ... `finished_at`); then each metric as `name[task]`, with
    `name[task]_stderr`, `name[task]_low`, `name[task]_high` and `name[task]_n` if any record has them; then the seconds
    of each phase.
    """
    outdated = apart(records)
    flat = [_row(record, ends, outdated.get(record.cell_id)) for record in records]
    columns = _in_order(_columns(record, row) for record, row in zip(records, flat, strict=True))
    return [{column: row.get(column) for column in columns} for row in flat]


class TextRow(NamedTuple):
    """The row of one record as text.

    Attributes:
        columns: JSON of its `Columns`.
        cells: Its values in that order, one JSON value a line; `outdated` is null, as it depends on other records.
    """

    columns: str
    cells: str


def text_row(record: Record) -> TextRow:
    """The row of a record as text, which `json_table` puts together with others."""
    row = _row(record, None, None)
    return TextRow(_json(_columns(record, row)), _json([*row.values()], separators=("\n", ""))[1:-1])


def json_table(table: Sequence[tuple[TextRow, str | None]]) -> Iterator[str]:
    """The indented JSON array of `rows`, in pieces, without its last line end.

    Args:
        table: The row of each record, and why the record is outdated.
    """
    layouts = {text: _read_columns(text) for text in dict.fromkeys(row.columns for row, _ in table)}
    columns = _in_order(layouts.values())
    fill_in = {text: _filling(own.names, columns) for text, own in layouts.items()}
    yield "["
    for number, (row, outdated) in enumerate(table):
        yield f"{',' if number else ''}\n{fill_in[row.columns]([*row.cells.split(chr(10)), 'null', _json(outdated)])}"
    yield "\n]" if table else "]"


def _filling(own: Sequence[str], columns: Sequence[str]) -> Callable[[Sequence[str]], str]:
    """A function that writes a JSON object with all columns, from the JSON of `own` ones, of null and of `outdated`."""
    place = {name: number for number, name in enumerate(own)} | {"outdated": len(own) + 1}
    take = itemgetter(*(place.get(column, len(own)) for column in columns))
    lines = ",\n".join(f"    {_json(column).replace('%', '%%')}: %s" for column in columns)
    template = f"  {{\n{lines}\n  }}"
    return lambda values: template % take(values)


def _read_columns(text: str) -> Columns:
    names, metrics, phases = json.loads(text)
    return Columns(tuple(names), tuple((name, task) for name, task in metrics), tuple(phases))


_json = partial(json.dumps, ensure_ascii=False)


def write_csv(records: Sequence[Record], path: Path, ends: Ends | None = None) -> None:
    """Write `rows` as comma-separated values with a header; unknown values are empty fields.

    Texts name no local folder. Texts that a spreadsheet would run as a formula get a leading apostrophe, because names
    come from models and files.
    """
    table, publish = rows(records, ends), publisher(records)
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]) if table else list[str]())
        writer.writerow({name: _harmless(name) for name in writer.fieldnames})
        writer.writerows(
            {name: _harmless(publish(value) if isinstance(value, str) else value) for name, value in row.items()}
            for row in table
        )


_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def _harmless(value: Value) -> Value:
    """Prefix a text that a spreadsheet would run as a formula with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def write_jsonl(records: Sequence[Record], path: Path) -> None:
    """Write `rows` as one JSON object per line; unknown values are null, and texts name no local folder."""
    publish = publisher(records)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(published(row, publish), ensure_ascii=False) + "\n" for row in rows(records))


def _row(record: Record, ends: Ends | None, outdated: str | None) -> Row:
    row = _identity(record, outdated)
    for metric in record.metrics:
        column = _column(metric.name, metric.task)
        row[column] = metric.value
        if metric.stderr is not None:
            row[f"{column}_stderr"] = metric.stderr
        if metric.n is not None:
            row[f"{column}_n"] = metric.n
        if ends is not None and (interval := ends(record, metric)) is not None:
            row[f"{column}_low"], row[f"{column}_high"] = interval
    for phase in record.phases:
        row[_phase_column(phase)] = phase.seconds
    return row


def _columns(record: Record, row: Row) -> Columns:
    metrics = dict.fromkeys((metric.name, metric.task) for metric in record.metrics)
    return Columns(tuple(row), tuple(metrics), tuple(map(_phase_column, record.phases)))


def _in_order(found: Iterable[Columns]) -> list[str]:
    """The columns of a table that has the rows of all these; none if there are no rows."""
    every = list(dict.fromkeys(found))
    present = dict.fromkeys(name for columns in every for name in columns.names)
    metrics = sorted({metric for columns in every for metric in columns.metrics}, key=_rank)
    figures = [_column(*metric) + suffix for metric in metrics for suffix in ("", "_stderr", "_low", "_high", "_n")]
    phases = dict.fromkeys(phase for columns in every for phase in columns.phases)
    settings = [name for name in present if name not in {*figures, *phases}]
    return [*settings, *(name for name in figures if name in present), *phases]


def settings(record: Record) -> tuple[str, ...]:
    """The columns of `rows` that are identity and settings, not results."""
    return tuple(_identity(record, None))


def _identity(record: Record, outdated: str | None) -> Row:
    spec, environment = record.spec, record.environment
    return {
        "cell_id": record.cell_id,
        "model": spec.model,
        "model_sha256": spec.model_sha256,
        "method": spec.method,
        "scheme": spec.scheme,
        "status": record.status,
        "reason": record.reason,
        "outdated": outdated,
        "calibration": calibration_label(spec.calibration),
        "tasks": " ".join(str(task) for task in spec.tasks),
        "compute_dtype": spec.compute_dtype,
        "device": spec.device,
        "seed": spec.seed,
        "budget": spec.budget,
        "engine": spec.engine,
        "provenance": record.model.provenance if record.model else None,
        "parameters": record.model.parameters if record.model else None,
        "cpu": environment.cpu,
        "gpu": environment.gpu,
        "slmquant": environment.versions.get("slmquant"),
        "git_revision": environment.git_revision,
        "started_at": record.started_at.isoformat(),
        "finished_at": record.finished_at.isoformat(),
    }


def calibration_label(calibration: CalibrationSpec | None) -> str | None:
    """`wikitext2_train 128×512 seed 0`, or None for a cell without calibration data."""
    if calibration is None:
        return None
    size = f"{calibration.num_samples}×{calibration.seq_len}"
    return f"{calibration.corpus} {size} seed {calibration.seed}"


def _column(name: str, task: str | None) -> str:
    return name if task is None else f"{name}[{task}]"


def _phase_column(phase: Phase) -> str:
    return f"phase_{phase.name}_s"


def _rank(metric: tuple[str, str | None]) -> tuple[str, int, str]:
    name, task = metric
    return (task or "", METRIC_ORDER.index(name) if name in METRIC_ORDER else len(METRIC_ORDER), name)
