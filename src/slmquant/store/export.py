"""Export records as flat rows for spreadsheets, data frames and other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from slmquant.files import atomic_file
from slmquant.store.outdated import apart
from slmquant.store.publication import published, publisher
from slmquant.store.record import CalibrationSpec, Metric, Record

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


def rows(records: Sequence[Record], ends: Ends | None = None) -> list[Row]:
    """One flat row per record; all rows have the same columns in the same order, with None for unknown values.

    The columns are identity and settings (`cell_id` ... `finished_at`); then each metric as `name[task]`, with
    `name[task]_stderr`, `name[task]_low`, `name[task]_high` and `name[task]_n` if any record has them; then the seconds
    of each phase.
    """
    outdated = apart(records)
    flat = [_row(record, ends, outdated.get(record.cell_id)) for record in records]
    fixed = list(_identity(records[0], None)) if records else []
    metrics = {_column(metric): metric for record in records for metric in record.metrics}
    present = {column for row in flat for column in row}
    ordered = [
        column + suffix
        for column in sorted(metrics, key=lambda name: _rank(metrics[name]))
        for suffix in ("", "_stderr", "_low", "_high", "_n")
        if column + suffix in present
    ]
    phases = list(dict.fromkeys(f"phase_{phase.name}_s" for record in records for phase in record.phases))
    return [{column: row.get(column) for column in (*fixed, *ordered, *phases)} for row in flat]


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
        column = _column(metric)
        row[column] = metric.value
        if metric.stderr is not None:
            row[f"{column}_stderr"] = metric.stderr
        if metric.n is not None:
            row[f"{column}_n"] = metric.n
        if ends is not None and (interval := ends(record, metric)) is not None:
            row[f"{column}_low"], row[f"{column}_high"] = interval
    for phase in record.phases:
        row[f"phase_{phase.name}_s"] = phase.seconds
    return row


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


def _column(metric: Metric) -> str:
    return metric.name if metric.task is None else f"{metric.name}[{metric.task}]"


def _rank(metric: Metric) -> tuple[str, int, str]:
    known = METRIC_ORDER.index(metric.name) if metric.name in METRIC_ORDER else len(METRIC_ORDER)
    return (metric.task or "", known, metric.name)
