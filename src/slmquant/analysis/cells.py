"""Reading records: reference cells, comparable conditions, accuracies and texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from slmquant.store.record import CellSpec, Environment, Metric, Record

Conditions = tuple[str, str, tuple[str, ...], str, str, Hashable]
"""Everything but the quantization; equal for cells that share a table. See `conditions`."""

OF_THE_METHOD = ("consumption",)
"""Kinds of metrics that a full-precision cell does not have."""

Machine = tuple[str, str, int, int, str | None]


def conditions(record: Record) -> Conditions:
    """Key of everything but the quantization; cells with equal keys may share a table.

    It holds model, fingerprint, tasks, compute dtype, device and inputs. Inputs are the hashes of configuration,
    tokenizer and data, and the versions of the task metrics.
    """
    spec = record.spec
    return spec.model, spec.model_sha256, tuple(map(str, spec.tasks)), spec.compute_dtype, spec.device, _read(spec)


def _read(spec: CellSpec) -> Hashable:
    inputs = spec.inputs
    if inputs is None:
        return None
    of_tasks = tuple(pair for pair in inputs.metrics if pair[0] not in OF_THE_METHOD)
    return inputs.config_sha256, inputs.tokenizer_sha256, inputs.data_sha256, of_tasks


def machine(environment: Environment) -> Machine:
    """Key of hardware and thread count; seconds and bytes compare only where it is equal."""
    e = environment
    return e.platform, e.cpu, e.cores, e.threads, e.gpu


def full_precision_of(record: Record, records: Iterable[Record]) -> Record | None:
    """The full-precision cell of the same weights, tasks, dtype and device; None if there is none.

    Among several, one with the same seed is preferred, then the latest.
    """
    here = conditions(record)[1:]
    candidates = [
        r
        for r in records
        if r.spec.is_reference
        and r.status == "ok"
        and conditions(r)[1:] == here
        and r.spec.engine == record.spec.engine
    ]
    return max(candidates, key=lambda r: (r.spec.seed == record.spec.seed, r.finished_at), default=None)


def cheapest_of(record: Record, records: Iterable[Record], method: str) -> Record | None:
    """The cell of `method` with the same weights, scheme, device and machine; None if there is none.

    Among several, one under the same conditions is preferred, then the latest.
    """
    spec, here = record.spec, machine(record.environment)
    candidates = [
        r
        for r in records
        if r.status == "ok"
        and (r.spec.method, r.spec.scheme, r.spec.device) == (method, spec.scheme, spec.device)
        and r.spec.model_sha256 == spec.model_sha256
        and r.spec.engine == spec.engine
        and machine(r.environment) == here
    ]
    return max(candidates, key=lambda r: (conditions(r) == conditions(record), r.finished_at), default=None)


def stops_early(record: Record, task: str) -> bool:
    """Whether the cell stopped a task, given as `str(TaskSpec)`, as soon as cells were separated."""
    return any(spec.until_separated is not None for spec in record.spec.tasks if str(spec) == task)


ACCURACIES = ("acc_norm", "acc", "exact_match_strict_match", "exact_match")
"""Accuracy metrics, most preferred first: length-normalized where lm-eval defines it."""


def accuracy(record: Record, task: str) -> Metric | None:
    """The preferred accuracy of a task (see `ACCURACIES`), or None."""
    return next((metric for name in ACCURACIES if (metric := record.metric(name, task))), None)


def accuracy_tasks(records: Sequence[Record]) -> list[str]:
    """Tasks on which any record has an accuracy, in the order of the cells' task lists."""
    return _tasks(records, ACCURACIES)


def text_tasks(records: Sequence[Record]) -> list[str]:
    """Tasks on which records have a perplexity or a divergence but no accuracy, in the order of the task lists.

    LAMBADA has a perplexity and an accuracy, so it does not count as a text.
    """
    scored = accuracy_tasks(records)
    return [task for task in _tasks(records, ("perplexity", "kl_mean")) if task not in scored]


def _tasks(records: Sequence[Record], metrics: tuple[str, ...]) -> list[str]:
    measured = {m.task: None for r in records for m in r.metrics if m.task is not None and m.name in metrics}
    asked = list(dict.fromkeys(str(task) for record in records for task in record.spec.tasks))
    return sorted(measured, key=lambda task: asked.index(task) if task in asked else len(asked))
