"""Results as files for other programs: `results.csv` and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from slmquant.analysis.chance import accuracy_interval
from slmquant.analysis.score_table import score_table
from slmquant.analysis.scores import DEFAULT_OPTIONS, Score, ScoreOptions
from slmquant.analysis.standing import Answers
from slmquant.files import atomic_file
from slmquant.report._sections import NO_ANSWERS, sections
from slmquant.store.export import write_csv
from slmquant.store.publication import published, publisher
from slmquant.store.record import Metric, Record

JsonObject = dict[str, object]


def write_report_csv(records: Sequence[Record], folder: Path) -> Path:
    """Write `results.csv` into `folder`, one flat row per cell, and return its path."""
    path = folder / "results.csv"
    write_csv(records, path, _ends)
    return path


def write_report_json(
    records: Sequence[Record],
    folder: Path,
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
) -> Path:
    """Write `results.json` into `folder`: full records with their cell ids and scores; returns its path."""
    path = folder / "results.json"
    with atomic_file(path) as temporary:
        text = json.dumps(as_json(records, options, answers), indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def as_json(
    records: Sequence[Record], options: ScoreOptions = DEFAULT_OPTIONS, answers: Answers = NO_ANSWERS
) -> list[JsonObject]:
    """Records as JSON objects, with `cell_id`, `scores` and an `interval` per metric added.

    Local folders are removed from names and reasons. An interval is the two ends of a 95 % confidence interval, or null
    if the metric has no standard error.
    """
    cells = [cell for section in sections(records, options, answers) for cell in section.cells]
    known = {measured.record.cell_id: measured.scores for cell in cells for measured in (cell, *cell.engines.values())}
    table = [known.get(scores.cell_id, scores) for scores in score_table(records, options)]
    objects: list[JsonObject] = [
        {
            "cell_id": record.cell_id,
            **record.model_dump(mode="json"),
            "metrics": [
                metric.model_dump(mode="json") | {"interval": _ends(record, metric)} for metric in record.metrics
            ],
            "scores": {
                "slmq_perf": _score(scores.perf),
                "slmq_perf_above_chance": _score(scores.perf_above_chance),
                "slmq_infer": _score(scores.infer),
                "slmq_cons": _score(scores.cons),
            },
        }
        for record, scores in zip(records, table, strict=True)
    ]
    publish = publisher(records)
    return [{name: published(value, publish) for name, value in fields.items()} for fields in objects]


def _ends(record: Record, metric: Metric) -> tuple[float, float] | None:
    interval = accuracy_interval(record, metric)
    return None if interval is None else (interval.low, interval.high)


def _score(score: Score) -> JsonObject:
    return {
        "value": score.value,
        "harmonic_mean": score.harmonic_mean,
        "minimum": score.minimum,
        "ratios": dict(score.ratios),
        "reason": score.reason,
        "interval": None if score.interval is None else (score.interval.low, score.interval.high),
    }
