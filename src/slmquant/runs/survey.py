"""Looks over a whole plan before anything runs: the state of every cell, its expected cost, and what is in the way.

Configurations, headers and hashes are read; no weights are loaded and nothing is computed with them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from slmquant import engines, methods, tasks
from slmquant.analysis.estimates import Costs, Estimate
from slmquant.boundary import size_text
from slmquant.calib.corpora import CORPORA
from slmquant.calib.statistics import Statistic
from slmquant.errors import SlmquantError
from slmquant.machine.memory import lacking_memory, weight_bytes
from slmquant.model.sources.configuration import read_configuration
from slmquant.model.sources.load import Identity, check_device, identify
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.runs.engine_cells import absence
from slmquant.runs.inputs import Contents, Data, DataJob, read_data
from slmquant.runs.plan import Plan
from slmquant.runs.precision import PrecisionJob, known_precision
from slmquant.runs.sketch import Sketch, sketch
from slmquant.schemes import parse
from slmquant.store.inputs import model_key
from slmquant.store.record import CalibrationSpec, CellSpec, ComputeDtype, Record

State = Literal["done", "refused", "blocked", "to do"]
"""State of a cell: `ok` in the store; refused, in the store or by method or format; impossible here; or to be run."""

_NOT_HERE = "unavailable"
_KEPT_BYTES = 2


@dataclass(frozen=True)
class SurveyJob:
    """A plan to look over.

    Attributes:
        plan: The plan.
        known: The rows of the store.
        learned: Rows to learn costs from.
        places: Folders of data and of the cache.
    """

    plan: Plan
    known: tuple[Record, ...]
    learned: tuple[Record, ...]
    places: Places


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a plan before it runs.

    Attributes:
        spec: The cell; without hashes if its model is not available.
        state: Its state.
        reason: Why it is refused or blocked, or how an earlier try ended; None otherwise.
        estimate: What it will cost; None unless it is to do.
    """

    spec: CellSpec
    state: State
    reason: str | None = None
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Problem:
    """A reason that several cells may share.

    Attributes:
        state: State of the cells.
        reason: Why they are in this state, or how an earlier try ended.
        cells: Which cells, in words; empty if it is the plan as a whole.
    """

    state: State
    reason: str
    cells: str = ""

    def __str__(self) -> str:
        return f"{self.cells} {self.state}: {self.reason}" if self.cells else self.reason


@dataclass(frozen=True)
class Survey:
    """What is known of a plan before it runs.

    Attributes:
        cells: All cells, in the plan's order, those on engines last.
        problems: What keeps cells from running, or kept them before; each reason once.
        remarks: What else the user should know.
        licences: Model or data set → its licence, as far as it is known.
        cpu_s: Processor seconds of all cells to do whose cost is known, shared captures once.
        unknown: Number of cells to do whose cost is not known.
        learned: Number of rows that costs were learned from.
        data: Hashes of the plan's data.
    """

    cells: tuple[PlannedCell, ...]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]
    licences: Mapping[str, str]
    cpu_s: float
    unknown: int
    learned: int
    data: Data


def survey(job: SurveyJob, progress: Progress) -> Survey:
    """Look over a plan; takes seconds."""
    return _Surveyor(job, progress).survey()


class _Surveyor:
    def __init__(self, job: SurveyJob, progress: Progress) -> None:
        self.plan, self.places, self.progress = job.plan, job.places, progress
        self.known = {record.cell_id: record for record in job.known}
        self.learned = job.learned
        self.costs = Costs(job.learned)
        self.data = read_data(DataJob(self.plan.corpora, self.plan.tasks, self.places.data_dir), progress)
        self.engines = {name: absence(name) for name in self.plan.engines}
        self.remarks: list[str] = []
        self.licences = dict(_licences(self.plan))
        self.written_bytes = 0

    def survey(self) -> Survey:
        in_torch: list[PlannedCell] = []
        on_engines: list[PlannedCell] = []
        device = _device_problem(self.plan)
        for model in self.plan.models:
            self.progress.start(f"look over {model}", None)
            found = list(self._model(model, device))
            in_torch += [cell for cell in found if cell.spec.engine is None]
            on_engines += [cell for cell in found if cell.spec.engine is not None]
        if unused := self.plan.unused():
            self.remarks.append(f"{', '.join(unused)} of the plan match no cell")
        cells = (*in_torch, *on_engines)
        cpu_s, unknown = _total(cells)
        return Survey(
            cells=cells,
            problems=(*_problems(cells), *self._space()),
            remarks=tuple(self.remarks),
            licences=self.licences,
            cpu_s=cpu_s,
            unknown=unknown,
            learned=len(self.costs),
            data=self.data,
        )

    def _model(self, model: str, device: str | None) -> Iterator[PlannedCell]:
        """The cells of one model."""
        if not self.plan.cells(model, _NOT_HERE, "float32"):
            return
        try:
            identity = identify(model, self.progress)
            contents = Contents.of(identity.folder, self.data)
            configuration = read_configuration(identity.folder)
        except SlmquantError as error:
            for spec in self.plan.cells(model, _NOT_HERE, "float32"):
                for one in (spec, *(spec.on(engine) for engine in self.plan.engines)):
                    yield PlannedCell(one, "blocked", str(error))
            return
        if identity.card.licence is not None:
            self.licences[model] = identity.card.licence
        specs = self._specs(model, identity, contents)
        asked = [one for spec in specs for one in (spec, *(spec.on(engine) for engine in self.plan.engines))]
        drawn = None
        if any(self._stored(spec) is None for spec in asked):
            drawn = sketch(configuration)
            if drawn is None:
                self.remarks.append(f"{model}: refusals that depend on its structure show only when it runs")
        lacking = device or _memory_problem(self.plan, identity)
        for spec in specs:
            cell = self._cell(spec, identity, drawn, lacking or self._data_problem(spec))
            yield cell
            for engine in self.plan.engines:
                yield self._engine_cell(spec.on(engine), cell, drawn)
        self._count_bytes(specs, identity)

    def _specs(self, model: str, identity: Identity, contents: Contents) -> list[CellSpec]:
        """The cells in their dtype; if it is not decided yet, in the one of most records."""
        if self.plan.dtype != "auto":
            return self.plan.cells(model, identity.sha256, self.plan.dtype, contents)
        key = model_key(identity.sha256, contents.config_sha256, contents.tokenizer_sha256)
        job = PrecisionJob(model, key, self.plan.calibration.corpus, self.plan.device, self.places)
        decided = known_precision(job, self.data.corpora[self.plan.calibration.corpus])
        if decided is not None:
            return self.plan.cells(model, identity.sha256, decided.dtype, contents)
        self.remarks.append(f"{model}: the compute dtype is not decided yet; `bench` measures it first")
        recorded = Counter(record.spec.compute_dtype for record in self.learned)
        tried = [
            self.plan.cells(model, identity.sha256, dtype, contents)
            for dtype in sorted(get_args(ComputeDtype), key=lambda name: -recorded[name])
        ]
        return max(tried, key=lambda specs: sum(spec.cell_id in self.known for spec in specs))  # the first, if none is

    def _cell(self, spec: CellSpec, identity: Identity, drawn: Sketch | None, lacking: str | None) -> PlannedCell:
        if (stored := self._stored(spec)) is not None:
            return stored
        if drawn is not None and (reason := drawn.refusal(spec.method, spec.scheme)) is not None:
            return PlannedCell(spec, "refused", reason)
        if lacking is not None:
            return PlannedCell(spec, "blocked", lacking)
        estimate = self.costs.estimate(spec, identity.card.parameters)
        return PlannedCell(spec, "to do", self._earlier(spec), estimate)

    def _engine_cell(self, spec: CellSpec, in_torch: PlannedCell, drawn: Sketch | None) -> PlannedCell:
        assert spec.engine is not None  # noqa: S101  # for the type checker
        if (stored := self._stored(spec)) is not None:
            return stored
        if in_torch.state in ("refused", "blocked"):
            return PlannedCell(spec, in_torch.state, in_torch.reason)
        if (absent := self.engines[spec.engine]) is not None:
            return PlannedCell(spec, "blocked", absent.reason)
        fmt = engines.load(spec.engine).formats[0]
        if drawn is not None and (reason := drawn.format_refusal(fmt, spec.method, spec.scheme)) is not None:
            return PlannedCell(spec, "refused", reason)
        return PlannedCell(spec, "to do", self._earlier(spec))

    def _stored(self, spec: CellSpec) -> PlannedCell | None:
        record = self.known.get(spec.cell_id)
        if record is None or not record.is_finished:
            return None
        return PlannedCell(spec, "done" if record.status == "ok" else "refused", record.reason)

    def _earlier(self, spec: CellSpec) -> str | None:
        """How an earlier try of a cell ended."""
        record = self.known.get(spec.cell_id)
        return None if record is None else f"tried before: {record.status}, {record.reason}"

    def _data_problem(self, spec: CellSpec) -> str | None:
        """Why data that the cell needs is missing."""
        if spec.calibration is not None and (reason := self.data.absent.get(spec.calibration.corpus)) is not None:
            return f"calibration: {reason}"
        reasons = [self.data.absent.get(task.name) for task in spec.tasks]
        return next((reason for reason in reasons if reason is not None), None)

    def _count_bytes(self, specs: list[CellSpec], identity: Identity) -> None:
        """Count what engines need: each cell's quantized model is kept until all engines have run it."""
        if self.plan.engines:
            self.written_bytes = max(self.written_bytes, len(specs) * identity.card.parameters * _KEPT_BYTES)

    def _space(self) -> Iterator[Problem]:
        """Disks that are too full."""
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < self.written_bytes:
            yield Problem(
                "blocked",
                f"the quantized models for engines take about {size_text(self.written_bytes)} in "
                f"{tempfile.gettempdir()}, and {size_text(free)} are free; free some, or set TMPDIR",
            )


def _device_problem(plan: Plan) -> str | None:
    try:
        check_device(plan.device)
    except SlmquantError as error:
        return str(error)
    return None


def _memory_problem(plan: Plan, identity: Identity) -> str | None:
    """Why the model's weights alone do not fit into memory."""
    needed = weight_bytes(identity.card.parameters)
    if plan.memory_limit is not None and needed > plan.memory_limit:
        return f"its weights alone take {size_text(needed)} of memory, more than memory_limit; raise it"
    return lacking_memory(identity.card.parameters) if plan.device == "cpu" else None


def _licences(plan: Plan) -> Iterator[tuple[str, str]]:
    """Licences of the data of a plan."""
    from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS

    for corpus in plan.corpora:
        yield corpus, CORPORA[corpus].licence
    for spec in plan.tasks:
        text = getattr(tasks.resolve(spec), "corpus", None)
        if isinstance(text, str) and text in CORPORA:
            yield spec.name, CORPORA[text].licence
        elif spec.name in KNOWN_TASKS:
            yield spec.name, KNOWN_TASKS[spec.name].licence


def _total(cells: Iterable[PlannedCell]) -> tuple[float, int]:
    """Processor seconds of the cells to do, shared captures once, and the number of cells whose cost is not known."""
    total, unknown = 0.0, 0
    shared: dict[tuple[str, CalibrationSpec | None, frozenset[Statistic]], float] = {}
    for cell in cells:
        if cell.state != "to do":
            continue
        if cell.estimate is None or cell.estimate.cpu_s is None:
            unknown += 1
            continue
        total += cell.estimate.cpu_s - cell.estimate.capture_s
        needs = methods.load(cell.spec.method).needs_for(parse(cell.spec.scheme))
        key = cell.spec.model, cell.spec.calibration, needs
        shared[key] = max(shared.get(key, 0.0), cell.estimate.capture_s)
    return total + sum(shared.values()), unknown


def _problems(cells: Iterable[PlannedCell]) -> Iterator[Problem]:
    """Each reason once, with the cells that it concerns."""
    reasons: dict[tuple[State, str], list[CellSpec]] = {}
    for cell in cells:
        if cell.state != "done" and cell.reason is not None:
            reasons.setdefault((cell.state, cell.reason), []).append(cell.spec)
    for (state, reason), specs in reasons.items():
        yield Problem(state, reason, _which(specs))


def _which(specs: list[CellSpec]) -> str:
    if len(specs) == 1:
        return specs[0].label
    common = [
        f"{kind} {values.pop()}"
        for kind in ("model", "method", "scheme", "engine")
        if len(values := {getattr(spec, kind) for spec in specs}) == 1 and None not in values
    ]
    return f"{len(specs)} cells" + (f" ({', '.join(common)})" if common else "")
