"""Results of an lm-eval task: values per item, and figures with their standard errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from slmquant.errors import DataError
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.lm_eval.catalogue import KnownTask, Row

__all__ = ["Built", "Sample", "common_metrics", "metrics", "outcomes", "without_prompts"]

Sample = dict[str, Any]
"""lm-eval's log of one item under one of its filters, reduced by `without_prompts`."""

_RATIOS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1"})


@dataclass(frozen=True)
class Built:
    """A task as lm-eval's own objects, with facts for its protocol.

    Attributes:
        name: Its name.
        known: Its entry in the catalogue; None if it has none.
        subtasks: lm-eval's task objects by name: one, or those of a family or group, whose items are pooled.
        card: Its data card.
        remark: Differences from the hub's data, for the protocol.
        equally_weighted: Metrics that are means of the subtasks' figures.
    """

    name: str
    known: KnownTask | None
    subtasks: dict[str, Any]
    card: DataCard
    remark: str | None
    equally_weighted: frozenset[str] = frozenset()


def without_prompts(sample: Sample) -> Sample:
    """Keep only what figures are computed from: the item, the filter, and the value of each metric."""
    return {key: sample[key] for key in ("doc_id", "doc", "filter", "metrics", *sample["metrics"])}


def outcomes(
    samples: Mapping[str, list[Sample]], spec: TaskSpec, asked: Sequence[tuple[str, int]]
) -> tuple[ItemOutcome, ...]:
    """The outcome of each item, subtask by subtask, or in the random order if there is one.

    Args:
        samples: Subtask → its logged samples.
        spec: The task.
        asked: (subtask, index in its split) of every item, in the order of evaluation.

    Raises:
        DataError: A random order was requested, but a subtask leaves items out, so it is not known which it used.
    """
    outcome: dict[tuple[str, int], dict[str, float]] = {}
    for name, answered in samples.items():
        indices = [index for owner, index in asked if owner == name]
        if spec.order_seed is not None and len({sample["doc_id"] for sample in answered}) != len(indices):
            raise DataError(f"task {spec.name!r} leaves out items by its own rules, so a random order is not possible")
        name_of = _names(answered)
        for sample in answered:
            index = sample["doc_id"] if spec.order_seed is None else indices[sample["doc_id"]]
            values = outcome.setdefault((name, index), {})
            for metric in sample["metrics"]:
                if isinstance(sample[metric], int | float):
                    per_item = "loglikelihood" if metric == "perplexity" else metric
                    values[name_of(per_item, sample["filter"])] = float(sample[metric])
    order = outcome if spec.order_seed is None else asked
    return tuple(
        ItemOutcome(
            task=str(spec),
            item=str(index) if name == spec.name else f"{name}/{index}",
            values=outcome[name, index],
        )
        for name, index in order
    )


def metrics(built: Built, samples: Mapping[str, list[Sample]], spec: TaskSpec) -> tuple[Metric, ...]:
    """The task's figures over all items, and the score of guessing if it is defined."""
    subtasks = list(built.subtasks.values())
    logged = [sample for group in samples.values() for sample in group]
    filters = list(dict.fromkeys(sample["filter"] for sample in logged))
    items = sum(sample["filter"] == filters[0] for sample in logged)
    shots = sorted({subtask.get_config("num_fewshot") for subtask in subtasks})
    protocol = ", ".join(
        part
        for part in (
            f"lm-eval {version('lm-eval')} {built.name} v{subtasks[0].VERSION}",
            f"{'/'.join(map(str, shots))}-shot",
            _together(built) if len(subtasks) > 1 and built.known is None else None,
            _taken(spec, items, built.card),
            built.remark,
        )
        if part
    )

    def figure(name: str, values: list[Any], value: float, stderr: float | None, higher: bool | None) -> Metric:
        return Metric(
            name=name,
            value=value,
            unit="ratio" if name == "chance" or any(name.startswith(ratio) for ratio in _RATIOS) else "1",
            higher_is_better=higher,
            task=str(spec),
            n=len(values),
            stderr=stderr,
            protocol=protocol,
        )

    def figures() -> Iterator[Metric]:
        name_of = _names(logged)
        for chosen in filters:
            for metric, aggregation in common_metrics(subtasks).items():
                parts = [
                    [sample[metric] for sample in group if sample["filter"] == chosen and metric in sample]
                    for group in samples.values()
                ]
                values = [value for part in parts for value in part]
                if values:
                    estimate = (
                        _mean_of_parts([_aggregate(part, aggregation) for part in parts if part])
                        if metric in built.equally_weighted
                        else _aggregate(values, aggregation)
                    )
                    yield figure(name_of(metric, chosen), values, *estimate, subtasks[0].higher_is_better()[metric])
        guesses = [
            [
                chance
                for sample in group
                if sample["filter"] == filters[0]
                and (chance := _chance(built.known, built.subtasks[name], sample["doc"])) is not None
            ]
            for name, group in samples.items()
        ]
        if guessed := [chance for part in guesses for chance in part]:
            means = [statistics.fmean(part) for part in guesses if part]
            level = statistics.fmean(means if built.equally_weighted else guessed)
            yield figure("chance", guessed, level, None, None)

    return tuple(figures())


def common_metrics(subtasks: Sequence[Any]) -> dict[str, Callable[[list[Any]], float]]:
    """Metrics that all subtasks have → their aggregation."""
    first, *others = (subtask.aggregation() for subtask in subtasks)
    return {name: aggregation for name, aggregation in first.items() if all(name in other for other in others)}


def _names(logged: Sequence[Sample]) -> Callable[[str, str], str]:
    """A function that names a metric under a filter: the metric's name, with the filter's if there are several."""
    several = len({sample["filter"] for sample in logged}) > 1

    def name_of(metric: str, chosen: str) -> str:
        return f"{metric}_{chosen.replace('-', '_')}" if several else metric

    return name_of


def _taken(spec: TaskSpec, asked: int, card: DataCard) -> str:
    """The evaluated items in words; the same for all cells under the same rule of early stopping."""
    if spec.limit is None or spec.limit >= card.rows:
        items = f"all {card.rows} items of {card.split}"
    else:
        items = f"first {asked if spec.until_separated is None else spec.limit} of {card.rows} items of {card.split}"
    if spec.order_seed is not None:
        items += f" in the random order of seed {spec.order_seed}"
    if spec.until_separated is not None:
        items += f", or fewer: until the compared cells are told apart at {spec.until_separated:.4g}"
    return items


def _together(built: Built) -> str:
    """The aggregation of subtasks' figures, in words."""
    equal = sorted(built.equally_weighted)
    parts = f"{len(built.subtasks)} subtasks"
    return f"{parts} pooled, but the mean over them of {', '.join(equal)}" if equal else f"{parts} pooled"


def _mean_of_parts(figures: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    """The unweighted mean of figures, and its standard error if each has one."""
    errors = [error for _, error in figures if error is not None]
    known = math.sqrt(sum(error**2 for error in errors)) / len(figures) if len(errors) == len(figures) else None
    return statistics.fmean(value for value, _ in figures), known


def _aggregate(values: list[Any], aggregation: Callable[[list[Any]], float]) -> tuple[float, float | None]:
    """lm-eval's aggregate of per-item values, with its standard error if that has a closed form."""
    value = float(aggregation(values))
    kind = getattr(aggregation, "__name__", None)
    if kind not in ("mean", "perplexity") or len(values) < 2:
        return value, None
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return value, spread if kind == "mean" else value * spread  # exp: the delta method


def _chance(known: KnownTask | None, subtask: Any, doc: Row) -> float | None:
    """The score of guessing on one item; None if not known."""
    if known and known.chance == "open":
        return 0.0
    if subtask.OUTPUT_TYPE != "multiple_choice":
        return None
    if known and known.chance == "true_options":
        labels: list[int] = doc["mc2_targets"]["labels"]
        return sum(labels) / len(labels)
    return 1 / len(subtask.doc_to_choice(doc))
