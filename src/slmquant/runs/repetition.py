"""Runs finished cells again from nothing, and compares their metrics with the stored ones.

Each cell gets a process of its own and, with the other repeated cells of its model, a new cache: statistics and the
reference's states are computed again, too. Times and memory are not compared, as they are never the same twice.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmquant.errors import SlmquantError
from slmquant.machine.process import Failure
from slmquant.model.sources.load import identify
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.runs.executors.contract import ModelWork
from slmquant.runs.executors.local import Local
from slmquant.runs.inputs import Contents, DataJob, read_data
from slmquant.runs.plan import make_plan
from slmquant.runs.work import CellResult
from slmquant.store.outdated import changes
from slmquant.store.record import REFERENCE, REFERENCE_SCHEME, CellSpec, Metric, Record

TOLERANCE = 0.001
"""Relative difference up to which two values agree, unless the user says otherwise."""
_OF_THE_MODEL = frozenset({"stored_bytes", "bpw", "bpw_linears", "kv_bits", "calibration_tokens"})
"""Metrics without a task that do not depend on the machine's load."""


@dataclass(frozen=True)
class Repetition:
    """A cell that was run again.

    Attributes:
        record: The stored row.
        failure: Why it could not be run again; None if it was.
        compared: Number of metrics that were compared.
        unequal: Name of each metric that is not equal bit for bit → stored and new value; None where one is absent.
    """

    record: Record
    failure: str | None
    compared: int
    unequal: dict[str, tuple[float | None, float | None]]

    @property
    def largest(self) -> float:
        """Largest relative difference of a metric; infinite if one is absent."""
        return max((_difference(*pair) for pair in self.unequal.values()), default=0.0)


@dataclass(frozen=True)
class Candidates:
    """The cells of a store that can be run again, and why others cannot.

    Attributes:
        same: Rows whose inputs and code are as recorded.
        apart: Row → what has changed, or why it cannot be repeated.
    """

    same: tuple[Record, ...]
    apart: tuple[tuple[Record, str], ...]

    def sample(self, count: int, seed: int) -> list[Record]:
        """At most `count` of the rows that can be run again, drawn at random."""
        ordered = sorted(self.same, key=lambda record: record.cell_id)
        return random.Random(seed).sample(ordered, min(count, len(ordered)))  # noqa: S311  # no secret


def candidates(records: Sequence[Record], data_dir: Path | None, progress: Progress) -> Candidates:
    """Divide finished rows into those that can be run again and others."""
    same: list[Record] = []
    apart: list[tuple[Record, str]] = []
    known: dict[object, Contents | str] = {}
    for record in records:
        spec = record.spec
        key = spec.model, spec.tasks, spec.calibration and spec.calibration.corpus
        reason = _not_repeatable(record)
        if reason is None:
            if key not in known:
                known[key] = _contents(spec, data_dir, progress)
            reason = _changed(spec, known[key])
        if reason is None:
            same.append(record)
        else:
            apart.append((record, reason))
    return Candidates(tuple(same), tuple(apart))


def repeat(
    records: Sequence[Record], data_dir: Path | None, progress: Progress, references: Sequence[CellSpec] = ()
) -> Iterator[Repetition]:
    """Run cells again, model by model; yields each as it ends.

    Args:
        records: Rows that can be run again.
        data_dir: Local folder of data, tried first.
        progress: Receives progress updates.
        references: Full-precision cells, which are also found among `records`; those that are missing are made up.
    """
    shared: dict[CellSpec, list[Record]] = {}
    for record in records:
        shared.setdefault(_reference(record.spec, references), []).append(record)
    for reference, group in shared.items():
        with tempfile.TemporaryDirectory(prefix="slmquant-repeat-") as folder:
            yield from _repeat(reference, group, Places(data_dir, Path(folder)), progress)


def _repeat(reference: CellSpec, records: Sequence[Record], places: Places, progress: Progress) -> Iterator[Repetition]:
    plan = make_plan(
        {
            "models": [reference.model],
            "methods": [REFERENCE],
            "schemes": [REFERENCE_SCHEME],
            "tasks": list(reference.tasks),
            "device": reference.device,
            "dtype": reference.compute_dtype,
        }
    )
    by_spec = {record.spec: record for record in records}
    specs = [reference, *(spec for spec in by_spec if spec != reference)]
    logs = places.cache_dir / "logs"
    logs.mkdir()
    work = ModelWork(plan, places, specs, _ignore, _ignore, lambda spec: logs / f"{spec.cell_id}.log")
    with Local(progress).model(work) as executor:
        for ended in executor.cells(specs):
            if (stored := by_spec.get(ended.spec)) is None:
                continue
            if isinstance(ended.result, Failure):
                yield Repetition(stored, f"{ended.result.status}: {ended.result.reason}", 0, {})
            elif isinstance(ended.result, CellResult):
                yield compare(stored, ended.result.metrics)


def compare(stored: Record, metrics: Sequence[Metric]) -> Repetition:
    """Compare the metrics of a repeated cell with the stored ones."""
    before, now = _deterministic(stored.metrics), _deterministic(metrics)
    names = dict.fromkeys((*before, *now))
    unequal = {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}
    return Repetition(stored, None, len(names), unequal)


def _deterministic(metrics: Sequence[Metric]) -> dict[str, float]:
    """Values of the metrics that the machine's load does not change, and of their standard errors."""
    values: dict[str, float] = {}
    for metric in metrics:
        if (metric.task is None and metric.name not in _OF_THE_MODEL) or metric.unit == "s":
            continue
        name = metric.name if metric.task is None else f"{metric.name} of {metric.task}"
        values[name] = metric.value
        if metric.stderr is not None:
            values[f"stderr of {name}"] = metric.stderr
    return values


def _difference(before: float | None, now: float | None) -> float:
    if before is None or now is None:
        return float("inf")
    return abs(now - before) / max(abs(before), abs(now))


def _reference(spec: CellSpec, references: Sequence[CellSpec]) -> CellSpec:
    """The full-precision cell that a cell is compared with."""
    made = spec.model_copy(
        update={"method": REFERENCE, "scheme": REFERENCE_SCHEME, "calibration": None, "budget": None, "inputs": None}
    )
    same = (one for one in references if one.model_copy(update={"inputs": None, "seed": spec.seed}) == made)
    if (found := next(same, None)) is not None:
        return found
    inputs = spec.inputs and spec.inputs.model_copy(update={"calibration_sha256": None, "methods": (), "stages": ()})
    return made.model_copy(update={"inputs": inputs})


def _not_repeatable(record: Record) -> str | None:
    if record.status != "ok":
        return f"it is {record.status}"
    if record.spec.engine is not None:
        return "it was timed on an engine, and times are never the same twice"
    if any(task.until_separated is not None for task in record.spec.tasks):
        return "how many items it evaluated depends on the other cells"
    return None


def _contents(spec: CellSpec, data_dir: Path | None, progress: Progress) -> Contents | str:
    """Hashes of what a cell reads now; the reason if it cannot be read."""
    corpora = () if spec.calibration is None else (spec.calibration.corpus,)
    try:
        identity = identify(spec.model)
        if identity.sha256 != spec.model_sha256:
            return "changed: the weights"
        return Contents.of(identity.folder, read_data(DataJob(corpora, spec.tasks, data_dir), progress))
    except SlmquantError as error:
        return str(error)


def _changed(spec: CellSpec, contents: Contents | str) -> str | None:
    """What differs between a cell as it was recorded and as it would be run now."""
    if isinstance(contents, str):
        return contents
    corpus = None if spec.calibration is None else spec.calibration.corpus
    now = spec.model_copy(update={"inputs": contents.inputs(spec.method, spec.scheme, spec.tasks, corpus)})
    differences = changes(spec, now)
    return f"changed: {', '.join(differences)}" if differences else None


def _ignore(*news: object) -> None:
    """Discard news of a run."""
    del news
