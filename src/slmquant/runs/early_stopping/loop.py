"""`--until-separated`: the cells of a model answer items round by round, until their ranking is decided.

Each cell is quantized once and saved in a folder next to the store, with its measurements so far. A round loads the
model again, evaluates the next items, and saves the answers in the same folder, so a run that is killed loses at most
the current round. A cell stops once every pair that it belongs to is decided on a task (`analysis.separation`); its
row is stored when all cells of its model are done.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from slmquant import methods
from slmquant.analysis.separation import rounds, undecided
from slmquant.boundary import or_none
from slmquant.cache.entries import discard, get
from slmquant.cache.write import About, put
from slmquant.machine.clock import now
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.runs.early_stopping.round_job import Asked, RoundJob, RoundResult, run_round
from slmquant.runs.early_stopping.tally import Tally
from slmquant.runs.work import CellResult
from slmquant.store.record import CellSpec, Phase, Record
from slmquant.store.sqlite import Store
from slmquant.tracks.task_checkpoints import versioned

_RESULT: TypeAdapter[CellResult] = TypeAdapter(CellResult)
_ROUND: TypeAdapter[RoundResult] = TypeAdapter(RoundResult)

T = TypeVar("T")

_MEASURED = "measured"

_MANY_ITEMS = 10**9
"""Assumed size of a task before its first round."""


@dataclass
class _Entrant:
    """A cell that takes part in the rounds.

    Attributes:
        spec: The cell.
        folder: Folder of its files between processes.
        tallies: Task → its answers so far.
        started_at: When work on it began.
        result: Measurements made when it was quantized; None for a cell of the store that was not quantized again.
        phases: The cost of each round that it took part in.
        is_stored: Whether an earlier run stored its row; a failure now leaves that row as it is.
    """

    spec: CellSpec
    folder: Path
    tallies: dict[str, Tally]
    started_at: datetime
    result: CellResult | None = None
    phases: list[Phase] = field(default_factory=list)
    is_stored: bool = False

    @property
    def kept(self) -> Path | None:
        """Folder of its quantized model; None for the full-precision model, which is loaded from its source."""
        return None if self.spec.method == methods.REFERENCE else self.folder / "model"


@dataclass(frozen=True)
class Separated:
    """The end of a cell: its figures over all its items, or a failure."""

    spec: CellSpec
    result: CellResult | Failure
    started_at: datetime


class Separation:
    """Runs the cells of one model in rounds until they are told apart.

    Args:
        store: The store for the rows; files between processes are kept next to it.
        measure: Quantizes a cell, measures the tasks that do not stop early, and saves the model in a folder.
        places: Folders of data and of the cache.
        progress: Receives progress updates.
        say: Receives a line of text for each decision.
        isolation_of: Returns the limits and the log of a cell's processes.
    """

    def __init__(
        self,
        store: Store,
        measure: Callable[[CellSpec, Path | None], CellResult | Failure],
        places: Places,
        progress: Progress,
        say: Callable[[str], None],
        isolation_of: Callable[[CellSpec], Isolation],
    ) -> None:
        self._store, self._measure, self._places, self._progress, self._say = store, measure, places, progress, say
        self._isolation_of = isolation_of
        self._entrants: dict[str, _Entrant] = {}
        self._folder = store.path.with_name(f"{store.path.name}.rounds")

    def enter(self, spec: CellSpec) -> Separated | None:
        """Quantize a cell and let it take part; returns its end if that failed, else None."""
        entrant = self._entrant(spec)
        failure = self._quantize(entrant)
        if failure is not None:
            return Separated(entrant.spec, failure, entrant.started_at)
        self._entrants[spec.cell_id] = entrant
        return None

    def enter_finished(self, record: Record) -> None:
        """Let a cell of the store take part with its answers; it is quantized again if more are needed."""
        entrant = self._entrant(record.spec)
        entrant.is_stored = True
        items = self._store.items(record.cell_id)
        entrant.tallies = {
            label: Tally.of_record(tally.spec, record, items) for label, tally in entrant.tallies.items()
        }
        self._entrants[record.cell_id] = entrant

    def run(self) -> Iterator[Separated]:
        """Run all rounds; yields failed cells at once and the others at the end, except for unchanged stored ones."""
        while wanted := self._wanted():
            for cell_id, asked in wanted.items():
                entrant = self._entrants[cell_id]
                failure = self._ask(entrant, asked)
                if failure is not None:
                    del self._entrants[cell_id]
                    if entrant.is_stored:
                        self._say(f"{entrant.spec.label} keeps its stored row and stops here: {failure.reason}")
                    else:
                        yield Separated(entrant.spec, failure, entrant.started_at)
        self._summarize()
        for entrant in self._entrants.values():
            if entrant.result is not None:
                yield Separated(entrant.spec, _whole(entrant, entrant.result), entrant.started_at)
                self._forget(entrant)  # its row is stored by now

    def _entrant(self, spec: CellSpec) -> _Entrant:
        early = [task for task in spec.tasks if task.until_separated is not None]
        return _Entrant(
            spec=spec,
            folder=self._folder / versioned(spec),
            tallies={str(task): Tally(task) for task in early},
            started_at=now(),
        )

    def _quantize(self, entrant: _Entrant) -> Failure | None:
        """Quantize, run tasks that do not stop early, and save the model, unless an interrupted run did."""
        path = entrant.folder / _MEASURED
        result = _read(_RESULT, path)
        if result is None:
            measured = self._measure(entrant.spec, entrant.kept)
            if isinstance(measured, Failure):
                return measured
            put(path, About(entrant.spec.label, "measured before the rounds"), _RESULT.dump_json(measured))
            result = measured
        entrant.result = result
        return None

    def _wanted(self) -> dict[str, tuple[Asked, ...]]:
        """Cell id → items of its next round; empty once no cell needs more."""
        wanted: dict[str, list[Asked]] = {}
        labels = dict.fromkeys(label for entrant in self._entrants.values() for label in entrant.tallies)
        for label, cells in self._waiting(list(labels)).items():
            tallies = {cell: self._entrants[cell].tallies[label] for cell in cells}
            sizes = [tally.available for tally in tallies.values()]
            available = min((size for size in sizes if size is not None), default=_MANY_ITEMS)
            fewest = min(len(tally.items) for tally in tallies.values())
            stop = next((stop for _, stop in rounds(available) if stop > fewest), fewest)
            for cell, tally in tallies.items():
                if len(tally.items) < stop:
                    wanted.setdefault(cell, []).append(Asked(tally.spec, len(tally.items), stop))
        return {cell: tuple(asked) for cell, asked in wanted.items()}

    def _waiting(self, labels: list[str]) -> dict[str, list[str]]:
        """Task → cells that still need more items.

        Those are the cells of undecided pairs; all cells before the first round, and all if answers are neither right
        nor wrong, as nothing can be decided then.
        """
        waiting = {}
        answers: dict[str, dict[str, list[float]]] = {}
        for label in labels:
            cells = [cell for cell, entrant in self._entrants.items() if label in entrant.tallies]
            known = {cell: self._entrants[cell].tallies[label].answers for cell in cells}
            if any(values is None for values in known.values()):
                waiting[label] = cells
            else:
                answers[label] = {cell: values for cell, values in known.items() if values is not None}
        for label, unsettled in undecided(answers, self._confidence()).items():
            waiting[label] = list(unsettled)
        return waiting

    def _confidence(self) -> float:
        """The plan's confidence; the highest if tasks differ."""
        specs = [tally.spec for entrant in self._entrants.values() for tally in entrant.tallies.values()]
        return max((spec.until_separated for spec in specs if spec.until_separated), default=0.95)

    def _ask(self, entrant: _Entrant, asked: tuple[Asked, ...]) -> Failure | None:
        """Run one round of one cell, or read its answers from an interrupted run."""
        if entrant.result is None and (failure := self._quantize(entrant)) is not None:
            return failure
        path = entrant.folder / f"round-{_digest(asked)}"
        result = _read(_ROUND, path)
        if result is None:
            answered = self._answer(entrant, asked)
            if isinstance(answered, Failure):
                return answered
            put(path, About(entrant.spec.label, "answers of a round"), _ROUND.dump_json(answered))
            result = answered
        entrant.phases.append(result.phase)
        for items, part in zip(asked, result.results, strict=True):
            entrant.tallies[str(items.task)].parts.append(part)
        return None

    def _answer(self, entrant: _Entrant, asked: tuple[Asked, ...]) -> RoundResult | Failure:
        """Run one round; once more if the saved model was damaged, after quantizing it again."""
        job = RoundJob(entrant.spec, entrant.kept, asked, self._places)
        answered = run_isolated(run_round, job, self._progress, self._isolation_of(entrant.spec))
        if not isinstance(answered, Failure) or not answered.again:
            return answered
        self._say(f"{entrant.spec.label}: trying again, because {answered.reason}")
        discard(entrant.folder / _MEASURED)
        if (failure := self._quantize(entrant)) is not None:
            return failure
        return run_isolated(run_round, job, self._progress, self._isolation_of(entrant.spec))

    def _forget(self, entrant: _Entrant) -> None:
        """Remove a finished cell's files; those of a failed cell stay, for the next try."""
        shutil.rmtree(entrant.folder, ignore_errors=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _summarize(self) -> None:
        """Report for each task how many items were evaluated and which cells could not be told apart."""
        labels = dict.fromkeys(label for entrant in self._entrants.values() for label in entrant.tallies)
        waiting = self._waiting(list(labels))
        for label in labels:
            tallies = {cell: e.tallies[label] for cell, e in self._entrants.items() if label in e.tallies}
            used = sum(len(tally.items) for tally in tallies.values())
            available = sum(tally.available or 0 for tally in tallies.values())
            names = [f"{self._entrants[c].spec.method} {self._entrants[c].spec.scheme}" for c in waiting.get(label, ())]
            outcome = f"not told apart: {', '.join(names)}" if names else "all cells are told apart"
            saved = 1 - used / max(available, 1)
            self._say(f"{label}: {used} of {available} answers evaluated, {saved:.0%} saved; {outcome}")


def _read(kind: TypeAdapter[T], path: Path) -> T | None:
    """Result that an interrupted run left in `path`; None if there is none or it was damaged."""
    known = get(path)
    return None if known is None else or_none(lambda: kind.validate_json(known))


def _digest(asked: tuple[Asked, ...]) -> str:
    names = " ".join(f"{one.task} {one.start} {one.stop}" for one in asked)
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _whole(entrant: _Entrant, result: CellResult) -> CellResult:
    """The measurements made when the cell was quantized, together with those of its rounds."""
    seconds = sum(phase.seconds for phase in entrant.phases)
    peak = max((phase.peak_rss_bytes or 0 for phase in entrant.phases), default=0)

    def longer(phase: Phase) -> Phase:
        highest = max(phase.peak_rss_bytes or 0, peak) or None
        return phase.model_copy(update={"seconds": phase.seconds + seconds, "peak_rss_bytes": highest})

    tallies = entrant.tallies.values()
    return replace(
        result,
        metrics=(
            *(metric for tally in tallies for metric in tally.metrics()),
            *(
                metric.model_copy(update={"value": metric.value + seconds}) if metric.name == "evaluate_s" else metric
                for metric in result.metrics
            ),
        ),
        phases=tuple(longer(phase) if phase.name == "evaluate" else phase for phase in result.phases),
        data=tuple(dict.fromkeys((*result.data, *(card for tally in tallies for card in tally.cards)))),
        items=(*result.items, *(item for tally in tallies for item in tally.items)),
        notes=(*result.notes, *(remark for tally in tallies for part in tally.parts for remark in part.remarks)),
    )
