"""Measures the cells of one model on engines: exports, checks parity, and times side by side.

An engine runs the file that a user would ship: it is written from the cell's quantized model, in the format that the
engine prefers. All cells of a model, or as many as fit into memory together, are measured in turns with the
full-precision one, so a row that is added later measures the full-precision model again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil

from slmquant import engines, formats
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Reference, Settings, cell_settings
from slmquant.engine_bench.reference import TextOptions, describe, fixed_windows, keep_reference
from slmquant.engine_bench.session import run_engines
from slmquant.errors import SlmquantError
from slmquant.files import remove
from slmquant.formats import native
from slmquant.formats.common.contract import Written
from slmquant.machine.meters import bytes_on_disk
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.store.record import CellSpec

K = TypeVar("K")

_MEMORY_OF_A_BYTE = 6
"""Most bytes of memory per byte of an artifact; OpenVINO's half precision needed 5.6, working memory included."""


def absence(engine: str) -> Failure | None:
    """Reason why `engine` cannot be used here, or None. A failure, not a refusal: it may be installed later."""
    try:
        status = engines.load(engine).status()
    except Exception as error:  # noqa: BLE001  # a library that breaks on import fails only its own rows
        return Failure("failed", f"cannot check whether {engine} is usable: {type(error).__name__}: {error}")
    return None if status.usable else Failure("failed", f"{engine}: {status.reason}")


@dataclass(frozen=True)
class ExportJob:
    """One quantized model to write in one format."""

    folder: Path
    format: str
    path: Path


def run_export(job: ExportJob, progress: Progress) -> Written:
    """Read a model in slmquant's own format and write it in another.

    Raises:
        RefusedError: The format cannot hold the model; the message says which weights and why.
        ModelError: The folder is damaged.
    """
    progress.start(f"export to {job.format}", None)
    return formats.load(job.format).write(native.load(job.folder), job.path)


def groups(sizes: Mapping[K, int], base: K | None, memory: int) -> list[list[K]]:
    """Divide artifacts into groups to open side by side, each with the one that all are compared with first.

    Args:
        sizes: Cell, or other key of an artifact → its bytes.
        base: The one that all are compared with, among them; None if it is not available.
        memory: Bytes that a group may take; every group has at least one artifact besides `base`.
    """
    head = [] if base is None else [base]
    divided = [list(head)]
    taken = alone = sum(sizes[one] for one in head)
    for one in (one for one in sizes if one != base):
        if (taken + sizes[one]) * _MEMORY_OF_A_BYTE > memory and len(divided[-1]) > len(head):
            divided.append(list(head))
            taken = alone
        divided[-1].append(one)
        taken += sizes[one]
    return [group for group in divided if group]


@dataclass(frozen=True)
class EngineStage:
    """One model's cells on engines.

    Attributes:
        kept: Cell, the full-precision one first → folder of its quantized model in slmquant's own format, or the
            failure that prevented it.
        scratch: Folder for artifacts.
        places: Folders of data and of the cache.
        rounds: Number of timed passes.
        isolation: Limits of an export, of opening, of a comparison and of a pass; a time limit of None is the engines'
            own.
        progress: Receives progress updates.
    """

    kept: Mapping[CellSpec, Path | Failure]
    scratch: Path
    places: Places
    rounds: int
    isolation: Isolation
    progress: Progress

    def run(self, engine: str) -> Iterator[tuple[CellSpec, EngineResult | Failure]]:
        """Measure the cells on `engine`; yields one result per cell as it arrives, in any order."""
        cells = list(self.kept)
        settings = replace(cell_settings(), rounds=self.rounds, memory_bytes=self.isolation.memory_bytes)
        if self.isolation.timeout_s is not None:
            settings = replace(settings, timeout_s=self.isolation.timeout_s)
        jobs: dict[CellSpec, EngineJob] = {}
        full_reference: Path | None = None
        for spec in cells:
            job = self._job(engine, spec, settings, full_reference)
            if spec == cells[0] and isinstance(job, EngineJob) and isinstance(job.reference, Reference):
                full_reference = job.reference.folder
            if isinstance(job, Failure):
                yield spec, job
            else:
                jobs[spec] = job
        full = cells[0] if cells[0] in jobs else None
        sizes = {spec: bytes_on_disk(job.artifact) or 0 for spec, job in jobs.items()}
        for number, side_by_side in enumerate(groups(sizes, full, psutil.virtual_memory().available)):
            baseline = None if full is None else 0
            results = run_engines([jobs[spec] for spec in side_by_side], settings, baseline, self.progress)
            for spec, result in zip(side_by_side, results, strict=True):
                if spec != full or number == 0:  # later groups measure it again, to compare with
                    yield spec, result
        for spec in cells:
            remove(self._artifact(engine, spec))

    def _job(self, engine: str, spec: CellSpec, settings: Settings, full_reference: Path | None) -> EngineJob | Failure:
        """The artifact of a cell with the reference that it must match."""
        kept = self.kept[spec]
        if isinstance(kept, Failure):
            return kept
        name = engines.load(engine).formats[0]
        artifact = kept
        if name != "native":
            job = ExportJob(kept, name, self._artifact(engine, spec))
            written = run_isolated(
                run_export, job, self.progress, replace(self.isolation, timeout_s=settings.timeout_s)
            )
            if isinstance(written, Failure):
                return written
            artifact = written.path
        full = next(iter(self.kept))  # its reference is kept for other runs, too
        try:
            windows = fixed_windows(str(kept), TextOptions(), self.places.data_dir)
            place = self.places.cache_dir if spec == full else self.scratch
            reference = keep_reference(str(kept), windows, place, settings.timeout_s)
            if isinstance(reference, Reference):
                reference = replace(reference, full=reference.folder if spec == full else full_reference)
            return describe(EngineJob(spec.label, engine, artifact, reference), str(kept))
        except SlmquantError as error:
            return Failure("failed", str(error))

    def _artifact(self, engine: str, spec: CellSpec) -> Path:
        """Path of the file or folder that the engine runs."""
        name = engines.load(engine).formats[0]
        return self.scratch / f"{spec.cell_id}-{name}{formats.load(name).suffix}"
