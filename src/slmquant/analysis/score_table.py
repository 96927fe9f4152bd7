"""The scores of single cells: which of a record's metrics enter `analysis.scores`, and what they are compared with.

Scores are arithmetic over records and need no model, so they are here and not in `tracks/`: this package runs without
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slmquant.analysis.cells import (
    accuracy,
    accuracy_tasks,
    cheapest_of,
    full_precision_of,
    machine,
    text_tasks,
)
from slmquant.analysis.chance import accuracy_interval
from slmquant.analysis.scores import (
    DEFAULT_OPTIONS,
    Score,
    ScoreOptions,
    slmq_cons,
    slmq_infer,
    slmq_perf,
    slmq_perf_above_chance,
)
from slmquant.store.record import Metric, Record


@dataclass(frozen=True)
class CellScores:
    """The scores of one cell, in the paper's three tracks."""

    cell_id: str
    perf: Score
    perf_above_chance: Score
    infer: Score
    cons: Score


def infer_score(
    metrics: Sequence[Metric], baseline: Sequence[Metric], label: str, options: ScoreOptions = DEFAULT_OPTIONS
) -> Score:
    """Track 2 of one artifact against full precision on the same engine, version and thread count.

    If the two were timed in alternation, the speed ratio is the median of their paired ratios; else it is the ratio of
    medians.

    Args:
        metrics: Metrics of the artifact.
        baseline: Metrics of the full-precision model.
        label: Name of the baseline.
        options: Scoring options, which set the context length.
    """
    context = context_of(metrics, "decode_tokens_per_s", options.inference_context) or options.inference_context
    end = _thread_ending(metrics, f"decode_tokens_per_s@{context}")
    speed = f"decode_tokens_per_s@{context}{end}"
    ratios: dict[str, float] = {}
    for name in (f"inference_added_rss_bytes{end}", speed, "artifact_bytes"):
        value, base = _named(metrics, name), _named(baseline, name)
        if value is None or base is None or value.value <= 0 or base.value <= 0:
            return Score(None, reason=f"{name} was not measured for this artifact, or not for {label}")
        if _definition(value) != _definition(base):
            return Score(None, reason=f"{name} of {label} is from another engine, engine version or number of threads")
        ratios[name] = value.value / base.value if name == speed else base.value / value.value
    paired = _named(metrics, f"decode_speedup@{context}{end}")
    if paired is not None and f"against {label}," in (paired.protocol or ""):
        ratios[speed] = paired.value
    speed_metric = _named(metrics, speed)
    memory, tokens, size = ratios.values()
    score = slmq_infer([memory], [tokens], [size], options.expectation)
    return replace(score, reason=f"{speed_metric.protocol if speed_metric else speed}; against {label}")


def score_table(records: Sequence[Record], options: ScoreOptions = DEFAULT_OPTIONS) -> list[CellScores]:
    """Score each record against its references among `records`; the order is kept.

    A score without reference or metric is None with a reason, never 0.
    """
    return [_cell_scores(record, records, options) for record in records]


def _cell_scores(record: Record, records: Sequence[Record], options: ScoreOptions) -> CellScores:
    if record.status != "ok":
        nothing = Score(None, reason=f"the cell is {record.status.replace('_', ' ')}")
        return CellScores(record.cell_id, nothing, nothing, nothing, nothing)
    reference = full_precision_of(record, records)
    if reference is None:
        perf = above_chance = Score(None, reason="no full-precision cell of the same model, tasks, dtype and device")
    else:
        perf = _perf(record, reference, options)
        above_chance = _perf_above_chance(record, reference, options)
    infer, cons = _infer(record, records, options), _cons(record, records, options)
    return CellScores(record.cell_id, perf, above_chance, infer, cons)


def _perf(record: Record, reference: Record, options: ScoreOptions) -> Score:
    ratios: dict[str, Sequence[float]] = {}
    for task in accuracy_tasks([reference]):
        quantized, full = accuracy(record, task), accuracy(reference, task)
        if full is None or quantized is None:
            return Score(None, reason=f"no accuracy on {task}")
        if _definition(quantized) != _definition(full):
            return Score(None, reason=f"the accuracies on {task} follow different protocols")
        if full.value <= 0:
            return Score(None, reason=f"the full-precision model has an accuracy of 0 on {task}")
        ratios[task] = [quantized.value / full.value]
    return _with_perplexities(ratios, record, reference, options)


def _perf_above_chance(record: Record, reference: Record, options: ScoreOptions) -> Score:
    ratios: dict[str, Sequence[float]] = {}
    for task in accuracy_tasks([reference]):
        quantized, full, chance = (
            accuracy(record, task),
            accuracy(reference, task),
            reference.metric("chance", task),
        )
        if full is None or quantized is None:
            return Score(None, reason=f"no accuracy on {task}")
        if _definition(quantized) != _definition(full):
            return Score(None, reason=f"the accuracies on {task} follow different protocols")
        if chance is None:
            return Score(None, reason=f"the chance level of {task} is not known")
        known = accuracy_interval(reference, full)
        if full.value <= chance.value or (known is not None and chance.value in known):
            on_items = f" on {full.n} items" if full.n else ""
            return Score(
                None,
                reason=f"full precision is not significantly above chance on {task}: accuracy {full.value:.3f}"
                f"{on_items}, chance {chance.value:.3f}; measure more items or leave the task out",
            )
        ratios[task] = [(quantized.value - chance.value) / (full.value - chance.value)]
    if not ratios:
        return Score(None, reason="no metric of this score was measured")
    return slmq_perf_above_chance(ratios, options.expectation)


def _with_perplexities(
    ratios: dict[str, Sequence[float]],
    record: Record,
    reference: Record,
    options: ScoreOptions,
) -> Score:
    if options.perplexity:
        for task in text_tasks([reference]):
            quantized, full = record.metric("perplexity", task), reference.metric("perplexity", task)
            if quantized is None or full is None:
                return Score(None, reason=f"no perplexity on {task}")
            if _definition(quantized) != _definition(full):
                return Score(None, reason=f"the perplexities on {task} follow different protocols")
            ratios[f"perplexity of {task}"] = [full.value / quantized.value]
    if not ratios:
        return Score(None, reason="no metric of this score was measured")
    return slmq_perf(ratios, options.expectation)


def _definition(metric: Metric) -> tuple[str, str | None, int]:
    return metric.name, metric.protocol, metric.version


def _named(metrics: Sequence[Metric], name: str) -> Metric | None:
    return next((metric for metric in metrics if metric.name == name), None)


def context_of(metrics: Sequence[Metric], figure: str, longest: int) -> int | None:
    """The longest context up to `longest` at which `figure@context` was measured, for any thread count, or None."""
    found = [
        int(context)
        for metric in metrics
        if metric.name.startswith(f"{figure}@")
        and (context := metric.name.removeprefix(f"{figure}@").partition("/")[0]).isdecimal()
    ]
    return max((context for context in found if context <= longest), default=None)


def _thread_ending(metrics: Sequence[Metric], name: str) -> str:
    """Suffix (`/1t`) of a metric measured with fewer threads than cores; empty if all cores were used."""
    if _named(metrics, name) is not None:
        return ""
    return next((metric.name.removeprefix(name) for metric in metrics if metric.name.startswith(f"{name}/")), "")


def _infer(record: Record, records: Sequence[Record], options: ScoreOptions) -> Score:
    """Score against the latest full-precision cell of the same weights, machine and engine."""
    peak = record.metric("inference_added_rss_bytes")
    if peak is None:
        older = record.metric("inference_peak_rss_bytes") is not None
        return Score(
            None,
            reason="measured by a version that did not subtract the memory of the empty process; measure again"
            if older
            else "not measured on an engine",
        )
    here = machine(record.environment)
    candidates = [
        r
        for r in records
        if r.spec.is_reference
        and r.status == "ok"
        and r.spec.model_sha256 == record.spec.model_sha256
        and machine(r.environment) == here
        and (base := r.metric("inference_added_rss_bytes")) is not None
        and _definition(base) == _definition(peak)
    ]
    if not candidates:
        return Score(None, reason="no full-precision cell of the same model on the same engine and machine")
    baseline = max(candidates, key=lambda r: r.finished_at)
    return infer_score(record.metrics, baseline.metrics, baseline.spec.label, options)


def _cons(record: Record, records: Sequence[Record], options: ScoreOptions) -> Score:
    method = options.consumption_reference
    reference = cheapest_of(record, records, method)
    if reference is None:
        return Score(None, reason=f"no {method} cell of the same model and scheme on the same machine")
    ratios = []
    for name in ("quantize_cpu_s", "quantize_added_rss_bytes"):
        own, base = record.metric(name), reference.metric(name)
        if own is None or base is None or own.value <= 0 or own.version != base.version:
            return Score(None, reason=f"{name} was not measured for this cell, or not for {method}")
        ratios.append(base.value / own.value)
    return slmq_cons([ratios[0]], [ratios[1]], options.expectation)
