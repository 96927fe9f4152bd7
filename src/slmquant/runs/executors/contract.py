"""What an executor does for a run: it computes stages and cells, and returns their results; it stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from slmquant import methods
from slmquant.calib.cached import CaptureJob
from slmquant.engine_bench.jobs import EngineResult
from slmquant.machine.process import Failure, Isolation
from slmquant.places import Places
from slmquant.runs.inputs import Data, DataJob
from slmquant.runs.plan import Plan
from slmquant.runs.precision import PrecisionDecision, PrecisionJob
from slmquant.runs.work import CellResult
from slmquant.schemes import parse
from slmquant.store.record import CellSpec, Environment


@dataclass(frozen=True)
class ModelWork:
    """The cells of one model, and what they share.

    Attributes:
        plan: The plan that they are part of.
        places: Folders of data and of the cache.
        cells: The cells, the reference first.
        say: Receives remarks, one line each.
        begin: Receives cells that begin.
        log_of: Returns the file for a cell's output.
    """

    plan: Plan
    places: Places
    cells: Sequence[CellSpec]
    say: Callable[[str], None]
    begin: Callable[..., None]
    log_of: Callable[[CellSpec], Path]

    def isolation(self, spec: CellSpec) -> Isolation:
        """The limits and the log of a cell's processes."""
        return Isolation(self.plan.timeout_s, self.plan.memory_limit, self.log_of(spec))


class Ended(NamedTuple):
    """The end of a cell; `environment` is that of the machine that computed it, None for this one."""

    spec: CellSpec
    result: CellResult | EngineResult | Failure
    started_at: datetime
    environment: Environment | None = None


class ModelExecutor(Protocol):
    """Runs the cells of one model."""

    def cells(self, specs: Sequence[CellSpec]) -> Iterator[Ended]:
        """Quantize and measure cells; yields each as it ends. The reference is the first of them, or cached."""

    def on_engine(self, engine: str, specs: Sequence[CellSpec]) -> Iterator[Ended]:
        """Measure cells on an engine, side by side with the reference; yields the cells of that engine.

        Args:
            engine: Name of the engine.
            specs: The cells, as they are measured in torch; the reference first.
        """


class Executor(Protocol):
    """Computes the stages of a run."""

    def check(self, plan: Plan) -> None:
        """Check, before anything runs, that the plan can run.

        Raises:
            RefusedError: It cannot.
        """

    def hash_data(self, job: DataJob) -> Data | Failure:
        """Hash the plan's data."""

    def decide(self, job: PrecisionJob) -> PrecisionDecision | Failure:
        """Choose the compute dtype of a model."""

    def model(self, work: ModelWork) -> AbstractContextManager[ModelExecutor]:
        """Prepare for the cells of one model; what is kept for them is removed at the end."""


def capture_job(work: ModelWork, spec: CellSpec) -> CaptureJob | None:
    """The statistics to capture for a cell, several of which may share them; None if it needs none."""
    if spec.calibration is None:
        return None
    needs = methods.load(spec.method).needs_for(parse(spec.scheme))
    if not needs:
        return None
    return CaptureJob(
        model=spec.model,
        calibration=spec.calibration,
        wanted=needs,
        dtype=spec.compute_dtype,
        device=work.plan.device,
        places=work.places,
    )


def without_statistics(failure: Failure) -> Failure:
    """The failure of a cell whose statistics could not be captured."""
    return replace(failure, reason=f"calibration: {failure.reason}")
