"""The cells of one model on engines: exported, proved to be what was evaluated, and timed side by side.

What an engine runs is the file that a user would ship. It is written from the quantized model that the cell put
aside, in the format that the engine prefers. On an engine all cells of a model, or as many of them as fit into memory
together, are measured in turns with the full-precision one, so a row that is asked for later measures that one again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from slmquant import engines, formats
from slmquant.engine_bench.reference import TextOptions, describe, fixed_windows, keep_reference
from slmquant.engine_bench.session import EngineJob, EngineResult, Reference, Settings, cell_settings, run_engines
from slmquant.errors import SlmquantError
from slmquant.files import cache_dir, remove
from slmquant.formats import native
from slmquant.formats.common.contract import Written
from slmquant.machine.meters import bytes_on_disk
from slmquant.machine.process import Failure, run_isolated
from slmquant.progress import Progress
from slmquant.store.record import CellSpec

_MEMORY_OF_A_BYTE = 6
"""Bytes of memory that a byte of an artifact takes at most; OpenVINO's half precision came to 5.6 with its work."""


def absence(engine: str) -> Failure | None:
    """Why nothing can be measured on `engine` here; a failure, not a refusal: it may be installed and tried again."""
    try:
        status = engines.load(engine).status()
    except Exception as error:  # noqa: BLE001  # a library that breaks when it is imported ends its own rows alone
        return Failure("failed", f"{engine} does not say whether it can be used: {type(error).__name__}: {error}")
    return None if status.usable else Failure("failed", f"{engine}: {status.reason}")


@dataclass(frozen=True)
class ExportJob:
    """One quantized model to be written in one format."""

    folder: Path
    format: str
    path: Path


def run_export(job: ExportJob, progress: Progress) -> Written:
    """Read a model in slmquant's own format and write it in another.

    Raises:
        RefusedError: The format cannot hold it; the message says which weights and why.
        ModelError: The folder is damaged.
    """
    progress.start(f"export to {job.format}", None)
    return formats.load(job.format).write(native.load(job.folder), job.path)


def groups(sizes: Mapping[CellSpec, int], full: CellSpec | None, memory: int) -> list[list[CellSpec]]:
    """Cells that are open side by side, the full-precision one first in every group.

    Args:
        sizes: Cell → bytes of its artifact.
        full: The full-precision cell among them; None where it could not be had.
        memory: Bytes that they may take together; a group has one cell beside the full-precision one at least.
    """
    head = [] if full is None else [full]
    found = [list(head)]
    taken = alone = sum(sizes[spec] for spec in head)
    for spec in (spec for spec in sizes if spec != full):
        if (taken + sizes[spec]) * _MEMORY_OF_A_BYTE > memory and len(found[-1]) > len(head):
            found.append(list(head))
            taken = alone
        found[-1].append(spec)
        taken += sizes[spec]
    return [group for group in found if group]


@dataclass(frozen=True)
class EngineStage:
    """One model's cells on engines.

    Attributes:
        kept: Cell, the full-precision one first → the folder, in slmquant's own format, of its quantized model; or why
            there is none.
        scratch: A folder for artifacts.
        data_dir: A local folder of data, tried first.
        rounds: Timed passes that count.
        timeout_s: Seconds for an export, for opening, for a comparison, for a pass; None for the engines' own limit.
        progress: Who is told how far it is.
    """

    kept: Mapping[CellSpec, Path | Failure]
    scratch: Path
    data_dir: Path | None
    rounds: int
    timeout_s: float | None
    progress: Progress

    def run(self, engine: str) -> Iterator[tuple[CellSpec, EngineResult | Failure]]:
        """Measure the cells on `engine`; one result for each, in any order, as soon as it is known."""
        cells = list(self.kept)
        settings = replace(cell_settings(), rounds=self.rounds)
        if self.timeout_s is not None:
            settings = replace(settings, timeout_s=self.timeout_s)
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
                if spec != full or number == 0:  # measured again for those of a later group to be held against
                    yield spec, result
        for spec in cells:
            remove(self._artifact(engine, spec))

    def _job(self, engine: str, spec: CellSpec, settings: Settings, full_reference: Path | None) -> EngineJob | Failure:
        """The artifact of a cell, and what it must agree with."""
        kept = self.kept[spec]
        if isinstance(kept, Failure):
            return kept
        name = engines.load(engine).formats[0]
        artifact = kept
        if name != "native":
            job = ExportJob(kept, name, self._artifact(engine, spec))
            written = run_isolated(run_export, job, self.progress, settings.timeout_s)
            if isinstance(written, Failure):
                return written
            artifact = written.path
        full = next(iter(self.kept))  # its reference serves other runs, too
        try:
            windows = fixed_windows(str(kept), TextOptions(), self.data_dir)
            place = cache_dir() if spec == full else self.scratch
            reference = keep_reference(str(kept), windows, place, settings.timeout_s)
            if isinstance(reference, Reference):
                reference = replace(reference, full=reference.folder if spec == full else full_reference)
            return describe(EngineJob(spec.label, engine, artifact, reference), str(kept))
        except SlmquantError as error:
            return Failure("failed", str(error))

    def _artifact(self, engine: str, spec: CellSpec) -> Path:
        """Where the file or folder that the engine runs is written."""
        name = engines.load(engine).formats[0]
        return self.scratch / f"{spec.cell_id}-{name}{formats.load(name).suffix}"
