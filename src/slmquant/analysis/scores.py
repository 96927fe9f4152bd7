"""The scores of the SLMQuant paper (arXiv 2511.13023), where 100 means parity with the reference.

::

    SLMQ_perf  = 100 · sqrt( mean over data sets of E(A^c / A)² )
    SLMQ_infer = 100 · sqrt( ( E(M / M^c)² + E(TPS^c / TPS)² + E(S / S^c)² ) / 3 )
    SLMQ_cons  = 100 · sqrt( ( E(T_ref / T)² + E(M_ref / M)² ) / 2 )

`^c` marks the compressed model and E is the mean over models. The third formula is ours, modelled on the other two: the
paper's could not be recovered. Choices that the paper leaves open are options here.

A quadratic mean rewards one large ratio, so each score also carries the harmonic mean and the minimum of the same
terms. A small model reduced to guessing still scores about 70 on SLMQ_perf, so `score_table` also gives a score from
accuracies alone, with (A^c − chance) / (A − chance) in place of A^c / A. A term below chance counts as negative: square
and root keep its sign, so noise around chance averages out. No task is left out: if full precision is not significantly
above chance on a task, there is no such score, and the reason says so.

Scores are arithmetic over records and need no model, so they are here and not in `tracks/`: this package runs without
torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slmquant.analysis.cells import (
    accuracy,
    accuracy_tasks,
    cheapest_of,
    full_precision_of,
    is_reference,
    machine,
    text_tasks,
)
from slmquant.analysis.chance import accuracy_interval
from slmquant.analysis.intervals import Interval
from slmquant.store.record import Metric, Record

Expectation = Literal["mean_then_square", "square_then_mean"]
"""Order of the mean over models and the square: E(x)², as in BiBench, or E(x²)."""


@dataclass(frozen=True)
class Score:
    """A score times 100, or the reason why there is none.

    Attributes:
        value: Quadratic mean of the terms; None if it cannot be computed.
        harmonic_mean: Harmonic mean of the same terms; 0 if a term is 0.
        minimum: The smallest term.
        ratios: The terms: name → ratio (1 is parity), or its mean over models.
        reason: Why there is no value, or a remark on the value.
        interval: Its 95 % interval; None if answers were not stored, or nothing was repeated.
    """

    value: float | None
    harmonic_mean: float | None = None
    minimum: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class ScoreOptions:
    """Choices that the paper leaves open.

    Attributes:
        expectation: Mean, then square (the default), or square, then mean.
        perplexity: Whether perplexity counts as one of the data sets, inverted: ppl / ppl^c.
        consumption_reference: The method whose cell of the same model, scheme and machine scores 100.
        inference_context: Context length at which decoding speed is taken, in tokens, or the longest one below that
            which the model supports.
    """

    expectation: Expectation = "mean_then_square"
    perplexity: bool = True
    consumption_reference: str = "rtn"
    inference_context: int = 512


DEFAULT_OPTIONS = ScoreOptions()


@dataclass(frozen=True)
class CellScores:
    """The scores of one cell, in the paper's three tracks."""

    cell_id: str
    perf: Score
    perf_above_chance: Score
    infer: Score
    cons: Score


def slmq_perf(
    ratios: Mapping[str, Sequence[float]],
    expectation: Expectation = "mean_then_square",
    reason: str | None = None,
) -> Score:
    """Track 1, compression performance.

    Args:
        ratios: Data set → A^c / A for each model (for perplexity ppl / ppl^c).
        expectation: Order of the mean over models and the square.
        reason: A remark to attach to the score.

    Raises:
        ValueError: There is no data set, no model, or a ratio that is negative or not finite.
    """
    return _quadratic(ratios, expectation, reason)


def slmq_perf_above_chance(
    ratios: Mapping[str, Sequence[float]], expectation: Expectation = "mean_then_square"
) -> Score:
    """Track 1 with chance-corrected accuracies; a term below chance counts as negative.

    Args:
        ratios: Data set → (A^c − chance) / (A − chance) for each model.
        expectation: Order of the mean over models and the square.

    Raises:
        ValueError: There is no data set, no model, or a ratio that is not finite.
    """
    return _quadratic(ratios, expectation, is_signed=True)


def signed_quadratic(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratic mean over the first axis that keeps the sign of negative terms."""
    squared = (np.sign(terms) * terms**2).mean(axis=0)
    return np.asarray(np.sign(squared) * np.sqrt(np.abs(squared)))


def slmq_infer(
    memory: Sequence[float],
    tokens_per_s: Sequence[float],
    size: Sequence[float],
    expectation: Expectation = "mean_then_square",
) -> Score:
    """Track 2, inference performance, from one ratio for each model.

    Args:
        memory: M / M^c, peak memory during inference above that of the empty process.
        tokens_per_s: TPS^c / TPS, decoding speed.
        size: S / S^c, stored size.
        expectation: Order of the mean over models and the square.

    Raises:
        ValueError: A sequence is empty, or a ratio is negative or not finite.
    """
    return _quadratic({"memory": memory, "tokens per second": tokens_per_s, "size": size}, expectation)


def slmq_cons(time: Sequence[float], memory: Sequence[float], expectation: Expectation = "mean_then_square") -> Score:
    """Track 3, quantization consumption, from one ratio for each model.

    Args:
        time: T_ref / T, processor time of quantizing.
        memory: M_ref / M, peak memory of quantizing above the loaded model.
        expectation: Order of the mean over models and the square.

    Raises:
        ValueError: A sequence is empty, or a ratio is negative or not finite.
    """
    return _quadratic({"time": time, "memory": memory}, expectation)


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


def _quadratic(
    terms: Mapping[str, Sequence[float]],
    expectation: Expectation,
    reason: str | None = None,
    is_signed: bool = False,
) -> Score:
    if not terms:
        raise ValueError("a score needs at least one term; got none")
    for name, ratios in terms.items():
        if not ratios:
            raise ValueError(f"no ratio for {name!r}; expected one per model")
        if not all(math.isfinite(ratio) and (is_signed or ratio >= 0) for ratio in ratios):
            raise ValueError(f"ratios of {name!r} are {list(ratios)}; expected finite numbers, 0 or more")
    means = {name: math.fsum(ratios) / len(ratios) for name, ratios in terms.items()}
    if expectation == "mean_then_square":
        squares = [mean * abs(mean) for mean in means.values()]
    else:
        squares = [math.fsum(ratio * abs(ratio) for ratio in ratios) / len(ratios) for ratios in terms.values()]
    smallest = min(means.values())
    harmonic = len(means) / math.fsum(1 / mean for mean in means.values()) if smallest > 0 else 0.0
    square = math.fsum(squares) / len(squares)
    return Score(
        value=math.copysign(100 * math.sqrt(abs(square)), square),
        harmonic_mean=100 * harmonic,
        minimum=100 * smallest,
        ratios=means,
        reason=reason,
    )


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
        if is_reference(r)
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
