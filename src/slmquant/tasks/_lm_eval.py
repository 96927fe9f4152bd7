"""Zero-shot tasks as lm-eval defines them: its prompts, filters and metrics, our rows and our backend."""

from __future__ import annotations

import functools
import logging
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from slmquant.calib.hub import quiet_datasets
from slmquant.errors import DataError, RefusedError
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks._base import EvalContext, TaskResult
from slmquant.tasks._lm_eval_catalogue import KNOWN_TASKS, KnownTask, Row
from slmquant.tasks._order import items_asked
from slmquant.tasks._rows import load_rows, rows_sha256

__all__ = ["LmEvalTask", "definitions", "find"]

_RATIOS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1"})
_SCORED = frozenset({"multiple_choice", "loglikelihood", "loglikelihood_rolling"})
_FEWSHOT_SEED = 1234  # lm-eval's default


@dataclass(frozen=True)
class LmEvalTask:
    """A task of lm-eval.

    Attributes:
        name: lm-eval's name of it.
        description: What it asks, in a line.
        known: Where its rows are, or None for a task that only the hub has.
    """

    name: str
    description: str
    known: KnownTask | None

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Ask the first `spec.limit` items; of a family, the first of every subject, then the second, ...

        With `spec.order_seed` the first in the random order of that seed instead.

        Raises:
            DataError: The rows are nowhere to be had.
            RefusedError: The task is answered by generated text.
            NumericalError: A log-likelihood is not finite.
        """
        return self.run_items(context, spec, 0, spec.limit)

    def run_items(self, context: EvalContext, spec: TaskSpec, start: int, stop: int | None) -> TaskResult:
        """Ask the items from `start` to `stop` (the last where None) in the order that `spec` says; raises as `run`."""
        from lm_eval.evaluator import evaluate

        from slmquant.tasks._backend import ContextLM

        with _quiet():
            built = _build(self, context)
            asked = _select_(built.subtasks, spec, start, stop)
            answered = evaluate(
                lm=ContextLM(context, self.name), task_dict={"tasks": built.subtasks}, bootstrap_iters=0
            )
        samples = {name: answered["samples"][name] for name in built.subtasks}
        return TaskResult(
            metrics=_metrics(self, built, samples, spec),
            data=(built.card,),
            items=tuple(_outcomes(samples, spec, asked)),
        )


@dataclass(frozen=True)
class _Built:
    """lm-eval's task objects, and what is to be said of their data."""

    subtasks: dict[str, Any]
    card: DataCard
    remark: str | None


def definitions(known: KnownTask) -> list[Path]:
    """lm-eval's definition files of a task, in the order of their names."""
    from lm_eval import tasks

    return sorted(Path(tasks.__file__).parent.glob(known.yaml))


def find(name: str) -> LmEvalTask | None:
    """The task of that name, known by heart or else among all of lm-eval's; None if there is none."""
    if known := KNOWN_TASKS.get(name):
        return LmEvalTask(name, known.description, known)
    if path := all_definitions().get(name):
        return LmEvalTask(name, f"as lm-eval defines it, in {path.parent.name}/{path.name}", None)
    return None


@functools.cache
def all_definitions() -> dict[str, Path]:
    """Task name → definition file, of every task that lm-eval has.

    lm-eval's own index parses some 14,000 files, which takes 20 seconds; a name stands on a line of its own.
    """
    from lm_eval import tasks

    line = re.compile(r"""^["']?task["']?\s*:\s*["']?([\w.\-]+)["']?\s*$""", re.MULTILINE)
    found: dict[str, Path] = {}
    for path in sorted(Path(tasks.__file__).parent.rglob("*.yaml")):
        if match := line.search(path.read_text(encoding="utf-8")):
            found.setdefault(match[1], path)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's log lines and bars: progress is reported through the context."""
    import lm_eval.api.task

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    plain = functools.partial(lm_eval.api.task.tqdm, disable=True)
    try:
        with quiet_datasets(), mock.patch.object(lm_eval.api.task, "tqdm", plain):
            yield
    finally:
        logger.setLevel(level)


def _build(task: LmEvalTask, context: EvalContext) -> _Built:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    rows = load_rows(task.name, task.known, context.data_dir, context.progress) if task.known else None
    paths = definitions(task.known) if task.known else [all_definitions()[task.name]]
    subtasks = {}
    for path in paths:
        config = load_yaml(path)
        for structural in ("tag", "group", "task_list"):
            config.pop(structural, None)
        if config.get("output_type") not in _SCORED:
            raise RefusedError(
                f"task {task.name!r} is answered by {config.get('output_type') or 'code of its own'}; "
                "only scored answers are measured so far"
            )
        if rows is not None:
            subset = config["dataset_name"] if task.known and task.known.is_family else ""
            config |= _local_data(config, rows.splits.get(subset, {}), task.name)
        try:
            built = ConfigurableTask(config=config)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"task {task.name!r} cannot be built from its data ({reason})") from error
        if built.get_config("num_fewshot") is None:
            built.set_config("num_fewshot", task.known.num_fewshot if task.known else 0)
        built.set_fewshot_seed(_FEWSHOT_SEED)
        subtasks[config["task"]] = built
    source = rows.source if rows else f"hub:{next(iter(subtasks.values())).DATASET_PATH}"
    return _Built(subtasks, _card(task, subtasks, source), rows.remark if rows else None)


def _local_data(config: Mapping[str, Any], splits: Mapping[str, list[Row]], name: str) -> dict[str, Any]:
    """What to change in a definition so that it reads `splits` and nothing else."""
    from datasets import Dataset, DatasetDict

    if not {config.get("test_split"), config.get("validation_split")} & set(splits):
        raise DataError(f"task {name!r} needs its test or validation split; there is {', '.join(splits) or 'nothing'}")
    tables = DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})
    changes: dict[str, Any] = {"custom_dataset": lambda **_: tables, "dataset_kwargs": None}
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(key) not in splits:
            changes[key] = None
    return changes


def _split(subtask: Any) -> str:
    return str(subtask.config.test_split or subtask.config.validation_split)


def _card(task: LmEvalTask, subtasks: Mapping[str, Any], source: str) -> DataCard:
    rows = [row for subtask in subtasks.values() for row in subtask.dataset[_split(subtask)]]
    return DataCard(
        name=task.name,
        split=_split(next(iter(subtasks.values()))),
        rows=len(rows),
        sha256=rows_sha256(rows),
        licence=task.known.licence if task.known else "see the hub",
        source=source,
    )


def _select_(subtasks: dict[str, Any], spec: TaskSpec, start: int, stop: int | None) -> list[tuple[str, int]]:
    """Leave the subtasks only the items from `start` to `stop`, and return those: (subtask, index in its split)."""
    sizes = {name: len(subtask.dataset[_split(subtask)]) for name, subtask in subtasks.items()}
    asked = items_asked(sizes, spec)[start:stop]
    for name in list(subtasks):
        indices = [index for owner, index in asked if owner == name]
        if indices:
            subtask = subtasks[name]
            subtask.dataset[_split(subtask)] = subtask.dataset[_split(subtask)].select(indices)
        else:
            del subtasks[name]
    return asked


def _outcomes(
    samples: Mapping[str, list[dict[str, Any]]], spec: TaskSpec, asked: list[tuple[str, int]]
) -> list[ItemOutcome]:
    """What was answered on each item, subtask by subtask; in a random order, in that order."""
    indices = {name: [index for owner, index in asked if owner == name] for name in samples}
    outcomes = {}
    for name, answered in samples.items():
        if spec.order_seed is not None and len(answered) != len(indices[name]):
            raise DataError(f"task {spec.name!r} leaves items out by a rule of its own, so they have no random order")
        for sample in answered:
            index = sample["doc_id"] if spec.order_seed is None else indices[name][sample["doc_id"]]
            values = {
                "loglikelihood" if metric == "perplexity" else metric: float(sample[metric])
                for metric in sample["metrics"]
                if isinstance(sample[metric], int | float)
            }
            item = f"{name}/{index}" if spec.name != name else str(index)
            outcomes[name, index] = ItemOutcome(task=str(spec), item=item, values=values)
    if spec.order_seed is None:
        return list(outcomes.values())
    return [outcomes[item] for item in asked]


def _metrics(
    task: LmEvalTask,
    built: _Built,
    samples: Mapping[str, list[dict[str, Any]]],
    spec: TaskSpec,
) -> tuple[Metric, ...]:
    answered = [(built.subtasks[name], sample) for name, group in samples.items() for sample in group]
    first = answered[0][0]
    shots = first.get_config("num_fewshot")
    protocol = (
        f"lm-eval {version('lm-eval')} {task.name} v{first.VERSION}, {shots}-shot, "
        f"{_taken(spec, len(answered), built.card)}"
    ) + (f", {built.remark}" if built.remark else "")

    def metric(name: str, value: float, stderr: float | None, higher_is_better: bool | None) -> Metric:
        return Metric(
            name=name,
            value=value,
            unit="ratio" if name in _RATIOS or name == "chance" else "1",
            higher_is_better=higher_is_better,
            task=str(spec),
            n=len(answered),
            stderr=stderr,
            protocol=protocol,
        )

    metrics = []
    for name, aggregation in first.aggregation().items():
        values = [sample[name] for _, sample in answered]
        value, stderr = _aggregate(values, aggregation)
        metrics.append(metric(name, value, stderr, first.higher_is_better()[name]))
    chances = [_chance(task, subtask, sample["doc"]) for subtask, sample in answered]
    defined = [chance for chance in chances if chance is not None]
    if defined:
        metrics.append(metric("chance", statistics.fmean(defined), None, None))
    return tuple(metrics)


def _taken(spec: TaskSpec, asked: int, card: DataCard) -> str:
    """Which items, in words; the same for every cell that one rule lets stop early."""
    if spec.limit is None or spec.limit >= card.rows:
        items = f"all {card.rows} items of {card.split}"
    else:
        items = f"first {asked if spec.until_separated is None else spec.limit} of {card.rows} items of {card.split}"
    if spec.order_seed is not None:
        items += f" in the random order of seed {spec.order_seed}"
    if spec.until_separated is not None:
        items += f", or fewer: until the compared cells are told apart at {spec.until_separated:.4g}"
    return items


def _aggregate(values: list[Any], aggregation: Callable[[list[Any]], float]) -> tuple[float, float | None]:
    """lm-eval's aggregate of per-item values, with the standard error where it has a closed form."""
    value = float(aggregation(values))
    if aggregation.__name__ not in ("mean", "perplexity") or len(values) < 2:
        return value, None
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return value, spread if aggregation.__name__ == "mean" else value * spread  # exp: the delta method


def _chance(task: LmEvalTask, subtask: Any, doc: Row) -> float | None:
    """What guessing scores on one item."""
    if subtask.OUTPUT_TYPE != "multiple_choice" or (task.known and task.known.chance is None):
        return None
    if task.known and task.known.chance == "true_options":
        labels: list[int] = doc["mc2_targets"]["labels"]
        return sum(labels) / len(labels)
    return 1 / len(subtask.doc_to_choice(doc))
