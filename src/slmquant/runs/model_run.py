"""Runs the cells of one model that the store does not hold, then measures them on the plan's engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slmquant.machine.process import Failure
from slmquant.progress import Progress
from slmquant.runs.early_stopping.loop import Separation
from slmquant.runs.executors.contract import Ended, Executor, ModelExecutor, ModelWork
from slmquant.runs.executors.local import Local
from slmquant.runs.reference_states import has_reference_states
from slmquant.runs.rows import Decision, Rows
from slmquant.store.outdated import changes
from slmquant.store.record import CellSpec


@dataclass(frozen=True)
class ModelRun:
    """The cells of one model on their way to rows.

    Attributes:
        work: The cells, and what they share.
        rows: Receives a row for each cell.
        progress: Receives progress updates of the current cell.
        decision: The dtype that they compute in.
        executor: Runs the cells.
    """

    work: ModelWork
    rows: Rows
    progress: Progress
    decision: Decision
    executor: Executor

    def run(self) -> None:
        """Run every cell that the store does not hold yet."""
        cells, plan = self.work.cells, self.work.plan
        pending = [spec for spec in cells if not self.rows.store.finished(spec.cell_id)]
        if pending:
            self._say_what_changed(pending)
        if pending and cells[0] not in pending and not has_reference_states(cells[0], self.work.places, self.progress):
            self.rows.say("the full-precision model's states are no longer cached; measuring it again")
            pending.insert(0, cells[0])
        with self.executor.model(self.work) as executor:
            if pending and any(task.until_separated is not None for task in plan.asked):
                self._separate(pending)
            else:
                self._finish(pending, executor.cells(pending))
            for engine in plan.engines:
                self._run_on(engine, executor)

    def _finish(self, pending: Sequence[CellSpec], ends: Iterator[Ended]) -> None:
        """Store the row of each cell that ends, and report those that an earlier run finished."""
        for spec in self.work.cells:
            if spec not in pending:
                self.rows.skip(spec)
            elif (ended := next(ends, None)) is not None:
                self._put(ended)
        for ended in ends:
            self._put(ended)

    def _put(self, ended: Ended) -> None:
        self.rows.put(ended.spec, ended.result, self.decision, ended.started_at, ended.environment)

    def _separate(self, pending: Sequence[CellSpec]) -> None:
        """Run cells with early stopping; stored cells take part, too, and may evaluate more items."""
        with Local(self.progress).model(self.work) as here:
            separation = Separation(
                self.rows.store, here.run_cell, self.work.places, self.progress, self.rows.say, self.work.isolation
            )
            for spec in self.work.cells:
                if spec in pending:
                    self.rows.begin(spec)
                    ended = separation.enter(spec)
                    if ended is not None:
                        self.rows.put(spec, ended.result, self.decision, ended.started_at)
                else:
                    stored = self.rows.skip(spec)
                    if stored.status == "ok":
                        separation.enter_finished(stored)
            for ended in separation.run():
                self.rows.put(ended.spec, ended.result, self.decision, ended.started_at)

    def _run_on(self, engine: str, executor: ModelExecutor) -> None:
        """Measure the cells on an engine, unless the store holds all of them."""
        in_torch = {spec.on(engine): spec for spec in self.work.cells}
        pending = [spec for spec in in_torch if not self.rows.store.finished(spec.cell_id)]
        for spec in in_torch:
            if spec not in pending:
                self.rows.skip(spec)
        if not pending:
            return
        baseline = self.work.cells[0].on(engine)
        asked = pending if baseline in pending else [baseline, *pending]
        for ended in executor.on_engine(engine, [in_torch[spec] for spec in asked]):
            if ended.spec in pending or not isinstance(ended.result, Failure):  # a stored baseline outlives a failure
                self._put(ended)

    def _say_what_changed(self, pending: list[CellSpec]) -> None:
        """Report which cells are measured again because the store's rows have other inputs or older code."""
        known: dict[CellSpec, CellSpec] = {
            record.spec.question: record.spec
            for record in self.rows.store.records(model=pending[0].model)
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
