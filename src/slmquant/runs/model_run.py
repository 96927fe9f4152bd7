"""Runs the cells of one model, each in its own process, then measures them on the plan's engines."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from slmquant import methods, tasks
from slmquant.cache.entries import lease
from slmquant.cache.leases import Lease
from slmquant.calib.cached import CapturedFile, CaptureJob, run_capture
from slmquant.calib.statistics import Statistic
from slmquant.errors import CacheError, SlmquantError
from slmquant.machine.clock import now
from slmquant.machine.process import Failure, run_isolated
from slmquant.model.computing.modes import MODES
from slmquant.model.sources.load import read_settings
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.runs.early_stopping.loop import Separation
from slmquant.runs.engine_cells import EngineStage, absence
from slmquant.runs.model_snapshot import kept_model
from slmquant.runs.plan import Plan
from slmquant.runs.repeats import with_repeats
from slmquant.runs.rows import Decision, Rows
from slmquant.runs.work import CellJob, CellResult, run_cell
from slmquant.schemes import parse
from slmquant.store.outdated import changes
from slmquant.store.record import CellSpec
from slmquant.tasks.common.contract import ReferenceKey


@dataclass(frozen=True)
class ModelRun:
    """The cells of one model, and what they share.

    Attributes:
        plan: The plan that they are part of.
        places: Folders of data and of the cache.
        rows: Receives a row for each cell.
        progress: Receives progress updates of the current cell.
        cells: The cells, the reference first.
        decision: The dtype that they compute in.
        scratch: Folder for quantized models that engines run, and for their artifacts.
    """

    plan: Plan
    places: Places
    rows: Rows
    progress: Progress
    cells: list[CellSpec]
    decision: Decision
    scratch: Path
    _captured: dict[frozenset[Statistic], CapturedFile | Failure] = field(default_factory=dict, init=False)
    _leases: list[Lease] = field(default_factory=list, init=False)
    _not_quantized: dict[CellSpec, Failure] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Run every cell that the store does not hold yet."""
        pending = [spec for spec in self.cells if not self.rows.store.finished(spec.cell_id)]
        if pending:
            self._say_what_changed(pending)
        if pending and self.cells[0] not in pending and not self._has_reference_states(self.cells[0]):
            self.rows.say("the full-precision model's states are no longer cached; measuring it again")
            pending.insert(0, self.cells[0])
        if pending and any(task.until_separated is not None for task in self.plan.asked):
            self._separate(pending)
        else:
            for spec in self.cells:
                if spec in pending:
                    self._finish(spec)
                else:
                    self.rows.skip(spec)
        for engine in self.plan.engines:
            self._run_on(engine)

    def _separate(self, pending: list[CellSpec]) -> None:
        """Run cells with early stopping; stored cells take part, too, and may evaluate more items."""
        separation = Separation(
            self.rows.store, self._run_cell, self.places, self.progress, self.rows.say, self.plan.timeout_s
        )
        for spec in self.cells:
            if spec in pending:
                ended = separation.enter(spec)
                if ended is not None:
                    self.rows.put(spec, ended.result, self.decision, ended.started_at)
            else:
                stored = self.rows.skip(spec)
                if stored.status == "ok":
                    separation.enter_finished(stored)
        for ended in separation.run():
            self.rows.put(ended.spec, ended.result, self.decision, ended.started_at)

    def _finish(self, spec: CellSpec) -> None:
        """Run one cell and store its row."""
        started = now()
        keep_in = self.scratch / spec.cell_id if self.plan.engines else None
        self.rows.put(spec, self._run_cell(spec, keep_in), self.decision, started)

    def _run_cell(self, spec: CellSpec, keep_in: Path | None) -> CellResult | Failure:
        """Run one cell; once more if an entry of the cache that it needs was damaged or removed meanwhile."""
        result = self._try_cell(spec, keep_in)
        if not isinstance(result, Failure) or not result.again:
            return result
        self.rows.say(f"{spec.label}: trying again, because {result.reason}")
        self._captured.clear()
        if spec != self.cells[0] and not self._has_reference_states(self.cells[0]):
            self._finish(self.cells[0])
        return self._try_cell(spec, keep_in)

    def _try_cell(self, spec: CellSpec, keep_in: Path | None) -> CellResult | Failure:
        job = self._job(spec)
        if isinstance(job, Failure):
            return job
        result = run_isolated(run_cell, replace(job, keep_in=keep_in), self.progress, self.plan.timeout_s)
        if isinstance(result, Failure):
            return result
        return with_repeats(result, job, self.progress, self.plan.timeout_s)

    def _job(self, spec: CellSpec) -> CellJob | Failure:
        """The job of a cell's process; statistics are captured for the first cell that needs them."""
        captured = None
        if spec.calibration is not None and (needs := methods.load(spec.method).needs_for(parse(spec.scheme))):
            if needs not in self._captured:
                self._captured[needs] = self._capture(spec, needs)
            captured = self._captured[needs]
        if isinstance(captured, Failure):
            return replace(captured, reason=f"calibration: {captured.reason}")
        return CellJob(spec, captured, self.places)

    def _capture(self, spec: CellSpec, wanted: frozenset[Statistic]) -> CapturedFile | Failure:
        """Capture the statistics in `wanted`, which several cells may share; each is charged only for its own."""
        job = CaptureJob(
            model=spec.model,
            calibration=self.plan.calibration,
            wanted=wanted,
            dtype=spec.compute_dtype,
            device=self.plan.device,
            places=self.places,
        )
        captured = run_isolated(run_capture, job, self.progress, self.plan.timeout_s)
        if isinstance(captured, CapturedFile):
            with suppress(CacheError):  # removed already; the cell will ask for it again
                self._leases.append(lease(captured.path))
        return captured

    def _run_on(self, engine: str) -> None:
        """Measure the cells on an engine, unless the store holds all of them."""
        in_torch = {spec.on(engine): spec for spec in self.cells}
        pending = [spec for spec in in_torch if not self.rows.store.finished(spec.cell_id)]
        for spec in in_torch:
            if spec not in pending:
                self.rows.skip(spec)
        if not pending:
            return
        started = now()
        if (absent := absence(engine)) is not None:
            for spec in pending:
                self.rows.put(spec, absent, self.decision, started)
            return
        baseline = self.cells[0].on(engine)
        asked = pending if baseline in pending else [baseline, *pending]
        folders = {spec: self._quantized(in_torch[spec]) for spec in asked}
        stage = EngineStage(
            folders, self.scratch, self.places, self.plan.engine_rounds, self.plan.timeout_s, self.progress
        )
        for spec, result in stage.run(engine):
            self.rows.put(spec, result, self.decision, started)

    def _quantized(self, spec: CellSpec) -> Path | Failure:
        """Folder of a cell's quantized model; it is quantized again if an earlier run measured the cell."""
        folder = self.scratch / spec.cell_id
        if (known := self._not_quantized.get(spec)) is not None:
            return known
        if not folder.exists():
            ended = self._run_cell(spec.model_copy(update={"tasks": ()}), folder)
            if isinstance(ended, Failure):
                self._not_quantized[spec] = ended
                return ended
        return kept_model(folder)

    def _say_what_changed(self, pending: list[CellSpec]) -> None:
        """Report which cells are measured again because the store's rows have other inputs or older code."""
        known: dict[CellSpec, CellSpec] = {
            record.spec.question: record.spec
            for record in self.rows.store.records(pending[0].model)
            if record.is_finished
        }
        changed = [(spec, changes(known[spec.question], spec)) for spec in pending if spec.question in known]
        for what in dict.fromkeys(", ".join(which) for _, which in changed if which):
            cells = [spec.label for spec, which in changed if ", ".join(which) == what]
            more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
            self.rows.say(
                f"measuring again, because inputs have changed ({what}): {', '.join(cells[:3])}{more}; "
                "older rows are kept and listed separately"
            )

    def _has_reference_states(self, spec: CellSpec) -> bool:
        """Whether all states that the divergence compares with are cached; loads no weights."""
        try:
            settings = read_settings(spec.model)
            key = ReferenceKey(
                model_sha256=spec.model_key,
                mode=MODES[spec.compute_dtype],
                device=torch.device(spec.device),
                config=settings.config,
                tokenizer=settings.tokenizer,
                cache_dir=self.places.cache_dir,
                data_dir=self.places.data_dir,
                progress=self.progress,
            )
            return all(tasks.has_reference(key, task) for task in spec.tasks)
        except SlmquantError:
            return False  # the reference's row will say what is wrong
