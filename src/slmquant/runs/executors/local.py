"""Runs everything on this machine, one cell after another, each in its own process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from slmquant.cache.entries import lease
from slmquant.cache.leases import Lease
from slmquant.calib.cached import CapturedFile, CaptureJob, run_capture
from slmquant.errors import CacheError
from slmquant.machine.clock import now
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.model.sources.load import check_device
from slmquant.progress import Progress
from slmquant.runs.engine_cells import EngineStage, absence
from slmquant.runs.executors.contract import Ended, ModelWork, capture_job, without_statistics
from slmquant.runs.inputs import Data, DataJob, read_data
from slmquant.runs.model_snapshot import kept_model
from slmquant.runs.plan import Plan
from slmquant.runs.precision import PrecisionDecision, PrecisionJob, decide_precision
from slmquant.runs.reference_states import has_reference_states
from slmquant.runs.repeats import with_repeats
from slmquant.runs.work import CellJob, CellResult, run_cell
from slmquant.store.record import CellSpec


@dataclass(frozen=True)
class Local:
    """This machine.

    Attributes:
        progress: Receives progress updates of the current cell.
    """

    progress: Progress

    def check(self, plan: Plan) -> None:
        """Check that this machine has the plan's device.

        Raises:
            RefusedError: It has not.
        """
        check_device(plan.device)

    def hash_data(self, job: DataJob) -> Data | Failure:
        """Hash the data in a process of its own, as lm-eval is large."""
        return run_isolated(read_data, job, self.progress)

    def decide(self, job: PrecisionJob) -> PrecisionDecision | Failure:
        """Choose the compute dtype by a measurement in a process of its own."""
        return run_isolated(decide_precision, job, self.progress)

    @contextmanager
    def model(self, work: ModelWork) -> Iterator[LocalModel]:
        """Run the cells of one model, with a folder for quantized models that engines run."""
        with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
            yield LocalModel(work, self.progress, Path(scratch))


@dataclass(frozen=True)
class LocalModel:
    """The cells of one model on this machine.

    Attributes:
        work: The cells, and what they share.
        progress: Receives progress updates of the current cell.
        scratch: Folder for quantized models that engines run, and for their artifacts.
    """

    work: ModelWork
    progress: Progress
    scratch: Path
    _captured: dict[CaptureJob, CapturedFile | Failure] = field(default_factory=dict, init=False)
    _leases: list[Lease] = field(default_factory=list, init=False)
    _not_quantized: dict[CellSpec, Failure] = field(default_factory=dict, init=False)

    def cells(self, specs: Sequence[CellSpec]) -> Iterator[Ended]:
        """Run cells one after another."""
        for spec in specs:
            started = now()
            self.work.begin(spec)
            keep_in = self.scratch / spec.cell_id if self.work.plan.engines else None
            yield Ended(spec, self.run_cell(spec, keep_in), started)

    def on_engine(self, engine: str, specs: Sequence[CellSpec]) -> Iterator[Ended]:
        """Measure cells on an engine; one that is not installed costs no quantization."""
        started = now()
        if (absent := absence(engine)) is not None:
            yield from (Ended(spec.on(engine), absent, started) for spec in specs)
            return
        self.work.begin(*(spec.on(engine) for spec in specs))
        folders = {spec.on(engine): self._quantized(spec) for spec in specs}
        plan, places = self.work.plan, self.work.places
        isolation = self.work.isolation(specs[0].on(engine))
        stage = EngineStage(folders, self.scratch, places, plan.engine_rounds, isolation, self.progress)
        for spec, result in stage.run(engine):
            yield Ended(spec, result, started)

    def run_cell(self, spec: CellSpec, keep_in: Path | None) -> CellResult | Failure:
        """Run one cell; once more if an entry of the cache that it needs was damaged or removed meanwhile.

        Args:
            spec: The cell.
            keep_in: Folder for its quantized model; None to discard it.
        """
        result = self._try_cell(spec, keep_in)
        if not isinstance(result, Failure) or not result.again:
            return result
        self.work.say(f"{spec.label}: trying again, because {result.reason}")
        self._captured.clear()
        reference = self.work.cells[0]
        if spec != reference and not has_reference_states(reference, self.work.places, self.progress):
            self._try_cell(reference, None)  # for its states; its row is stored
        return self._try_cell(spec, keep_in)

    def _try_cell(self, spec: CellSpec, keep_in: Path | None) -> CellResult | Failure:
        wanted, captured = capture_job(self.work, spec), None
        if wanted is not None:
            if wanted not in self._captured:
                self._captured[wanted] = self._capture(wanted, self.work.isolation(spec))
            captured = self._captured[wanted]
        if isinstance(captured, Failure):
            return without_statistics(captured)
        job = CellJob(spec, captured, self.work.places, keep_in)
        return run_whole(job, self.progress, self.work.isolation(spec))

    def _capture(self, wanted: CaptureJob, isolation: Isolation) -> CapturedFile | Failure:
        """Capture statistics, which several cells may share, and keep them until the end of the run."""
        captured = run_isolated(run_capture, wanted, self.progress, isolation)
        if isinstance(captured, CapturedFile):
            with suppress(CacheError):  # removed already; the cell will ask for it again
                self._leases.append(lease(captured.path))
        return captured

    def _quantized(self, spec: CellSpec) -> Path | Failure:
        """Folder of a cell's quantized model; it is quantized again if an earlier run measured the cell."""
        folder = self.scratch / spec.cell_id
        if (known := self._not_quantized.get(spec)) is not None:
            return known
        if not folder.exists():
            ended = self.run_cell(spec.model_copy(update={"tasks": ()}), folder)
            if isinstance(ended, Failure):
                self._not_quantized[spec] = ended
                return ended
        return kept_model(folder)


def run_whole(job: CellJob, progress: Progress, isolation: Isolation) -> CellResult | Failure:
    """Run a cell in a process of its own, and repeat its quantization if that was short."""
    result = run_isolated(run_cell, job, progress, isolation)
    if isinstance(result, Failure):
        return result
    return with_repeats(result, replace(job, keep_in=None), progress, isolation)
