"""Runs stages and cells as tasks of a Ray cluster.

Ray places the tasks, moves their results, and runs those of a lost machine again. Results come back to this process,
which alone writes the store. A cell has its own process within its task, with the plan's limits, so that its failure is
a row as it is on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slmquant.calib.cached import CaptureJob
from slmquant.calib.corpora import data_folder
from slmquant.errors import RefusedError, first_line
from slmquant.interruption import stop_if_interrupted
from slmquant.machine.clock import now
from slmquant.machine.process import FREE, Failure, Isolation, explain, run_isolated
from slmquant.model.sources.load import identify
from slmquant.progress import Progress
from slmquant.runs.executors import remote
from slmquant.runs.executors.cluster import Node, check_alike, nodes
from slmquant.runs.executors.contract import Ended, ModelWork, capture_job
from slmquant.runs.executors.needs import Needs
from slmquant.runs.executors.parcels import Parcel, SentFolder, pack, send_folder, unpack
from slmquant.runs.executors.remote import Answer, EngineAnswer, Sent
from slmquant.runs.inputs import Data, DataJob, read_data
from slmquant.runs.plan import Plan
from slmquant.runs.precision import PrecisionDecision, PrecisionJob
from slmquant.runs.reference_states import reference_states
from slmquant.schemes import parse
from slmquant.schemes.kept_mixtures import entry_of
from slmquant.store.record import CellSpec

_POLL_S = 1.0
_FAREWELL_S = 5.0


class Ray:
    """A Ray cluster that this process is connected to.

    Args:
        progress: Receives the number of cells that have ended.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._needs: Needs | None = None

    def check(self, plan: Plan) -> None:
        """Check that the cluster can run the plan, and that its machines compute alike.

        Raises:
            RefusedError: No machine has the plan's device, or one has other versions; or the plan stops early.
        """
        if plan.until_separated is not None:
            raise RefusedError(
                "--until-separated decides after each round which cells go on, which needs one machine; "
                "use --executor local, or leave --until-separated out"
            )
        if plan.device.startswith("cuda:"):
            raise RefusedError(
                f"device {plan.device!r} names a card, and Ray chooses the cards of its tasks; write cuda"
            )
        machines = nodes()
        self._needs = Needs.of(plan, machines)
        told = {
            node: ray.remote(remote.describe_node)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
            .remote()
            for node in machines
            if node.cpus >= 1
        }
        for node, reference in told.items():
            try:
                found = ray.get(reference)
            except RayError as error:
                raise RefusedError(
                    f"slmquant does not run on the node {node.address} ({_reason(error).reason}); install it there, "
                    "in the same version as here"
                ) from error
            check_alike(node, found)

    def hash_data(self, job: DataJob) -> Data | Failure:
        """Hash the data of this machine, which is sent to those that lack it."""
        return run_isolated(read_data, job, self._progress)

    def decide(self, job: PrecisionJob) -> PrecisionDecision | Failure:
        """Choose the compute dtype on a machine of the cluster; this machine's cache keeps the decision."""
        needs, cache = self._known_needs, job.places.cache_dir
        identity = identify(job.model)
        sent = _send(job.model, identity.folder, job.places.data_dir, needs, FREE)
        known = pack((cache / "precision").glob("[!.]*"), cache)
        try:
            task = ray.remote(remote.decide).options(**needs.cell(identity.card.parameters))
            answer: tuple[PrecisionDecision | Failure, Parcel] = ray.get(task.remote(sent, job, known))
        except RayError as error:
            return _reason(error)
        unpack(answer[1], cache)
        return answer[0]

    @contextmanager
    def model(self, work: ModelWork) -> Iterator[RayModel]:
        """Run the cells of one model; what still runs at the end is cancelled."""
        identity = identify(work.cells[0].model)
        needs = self._known_needs
        limits = Isolation(work.plan.timeout_s, work.plan.memory_limit)
        sent = _send(work.cells[0].model, identity.folder, work.places.data_dir, needs, limits)
        mixtures = {spec.scheme for spec in work.cells if parse(spec.scheme).table is not None}
        sent = replace(sent, mixtures=pack(map(entry_of, sorted(mixtures)), work.places.cache_dir))
        model = RayModel(work, sent, needs, identity.card.parameters, self._progress)
        try:
            yield model
        finally:
            model.cancel()

    @property
    def _known_needs(self) -> Needs:
        if self._needs is None:
            raise RuntimeError("check the plan first")
        return self._needs


@dataclass(frozen=True)
class RayModel:
    """The cells of one model on a cluster.

    Attributes:
        work: The cells, and what they share.
        sent: What their tasks need.
        needs: What a task asks of a machine.
        parameters: Number of the model's parameters.
        progress: Receives the number of cells that have ended.
    """

    work: ModelWork
    sent: Sent
    needs: Needs
    parameters: int
    progress: Progress
    _captured: dict[CaptureJob, list[Any]] = field(default_factory=dict, init=False)
    _tasks: dict[CellSpec, list[Any]] = field(default_factory=dict, init=False)
    _alive: dict[str, Node] = field(default_factory=dict, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    def cells(self, specs: Sequence[CellSpec]) -> Iterator[Ended]:
        """Run cells side by side, the reference before the others; yields each as it ends."""
        if not specs:
            return
        reference, places = self.work.cells[0], self.work.places
        if reference in specs:
            states = self._submit(reference, {})[1]
        else:
            states = ray.put(pack(reference_states(reference, places), places.cache_dir))
        for spec in specs:
            if spec != reference:
                self._submit(spec, states)
        machines = len(nodes())
        self.progress.start(f"cells on {machines} node{'s' if machines != 1 else ''}", len(specs))
        for spec in self._as_they_end(specs, self.needs.cpus):
            ended = self._ended(spec)
            if spec == reference and not isinstance(ended.result, Failure):
                unpack(ray.get(states), places.cache_dir)  # for a later run
            self.progress.advance()
            yield ended

    def on_engine(self, engine: str, specs: Sequence[CellSpec]) -> Iterator[Ended]:
        """Measure cells on an engine, in one task that has a machine for itself."""
        for spec in specs:
            if spec not in self._tasks:  # an earlier run measured it
                self._submit(spec.model_copy(update={"tasks": ()}), {}, spec)
        quantized = [part for spec in specs for part in (self._tasks[spec][0], self._tasks[spec][2])]
        task = ray.remote(remote.run_on_engine).options(**self.needs.engine())
        started = now()
        key = specs[0].on(engine)
        sent = replace(self.sent, threads=self.needs.engine_threads)
        self._tasks[key] = [task.remote(sent, engine, specs, self.work.plan.engine_rounds, *quantized)]
        self.progress.start(f"{engine}, {len(specs)} models side by side", None)
        for _ in self._as_they_end([key], self.needs.whole):
            answer = self._get(key)
            if isinstance(answer, Failure):
                yield from (Ended(spec.on(engine), answer, started) for spec in specs)
            else:
                results: EngineAnswer = answer
                self._keep_log(key, results.log)
                for spec, result in results.results:
                    yield Ended(spec, result, results.started_at, results.environment)

    def cancel(self) -> None:
        """Stop what still runs; a task ends its processes before it ends itself."""
        references = [parts[0] for parts in (*self._captured.values(), *self._tasks.values())]
        if not references:
            return
        _, running = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in running:
            with suppress(RayError, ValueError):
                ray.cancel(reference)
        if running:
            ray.wait(running, num_returns=len(running), timeout=_FAREWELL_S)

    def _submit(self, spec: CellSpec, states: object, name: CellSpec | None = None) -> list[Any]:
        """Start the task of a cell, and keep it as that of `name`; returns Ray's references to its results."""
        captured = self._capture(spec)
        keeps_model = bool(self.work.plan.engines)
        task = ray.remote(remote.run_cell).options(num_returns=3, **self.needs.cell(self.parameters))
        parts: list[Any] = task.remote(self.sent, spec, keeps_model, *captured, states)
        self._tasks[name or spec] = parts
        return parts

    def _capture(self, spec: CellSpec) -> list[Any]:
        """The statistics of a cell, captured by a task that several cells may share, and their files."""
        wanted = capture_job(self.work, spec)
        if wanted is None:
            return [None, {}]
        if wanted not in self._captured:
            task = ray.remote(remote.capture).options(num_returns=2, **self.needs.cell(self.parameters))
            self._captured[wanted] = task.remote(self.sent, wanted)
        return self._captured[wanted]

    def _as_they_end(self, specs: Sequence[CellSpec], cpus: int) -> Iterator[CellSpec]:
        waiting = {self._tasks[spec][0]: spec for spec in specs}
        while waiting:
            stop_if_interrupted()
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_S)
            self._watch(cpus)
            for reference in ready:
                yield waiting.pop(reference)

    def _watch(self, cpus: int) -> None:
        """Report machines that were lost, and a cluster without a machine that is large enough."""
        present = {node.id: node for node in nodes()}
        for lost in self._alive.keys() - present.keys():
            address = self._alive[lost].address
            self.work.say(f"the node {address} was lost; what ran there runs again on another")
        self._alive.clear()
        self._alive.update(present)
        if not any(node.cpus >= cpus and node.gpus >= self.needs.gpus for node in present.values()):
            self._say_once(f"waiting for a node with {cpus} processors and {self.needs.gpus} cards")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.work.say(text)

    def _ended(self, spec: CellSpec) -> Ended:
        answer = self._get(spec)
        if isinstance(answer, Failure):
            return Ended(spec, answer, now())
        ended: Answer = answer
        self._keep_log(spec, ended.log)
        return Ended(spec, ended.result, ended.started_at, ended.environment)

    def _keep_log(self, spec: CellSpec, printed: bytes) -> None:
        """Write what a cell's processes printed next to the store, in place of an earlier try's."""
        log = self.work.log_of(spec)
        with suppress(OSError):  # a cell may be without a log
            log.unlink(missing_ok=True)
            if printed:
                log.parent.mkdir(exist_ok=True)
                log.write_bytes(printed)

    def _get(self, spec: CellSpec) -> Any:  # results of tasks have no static type
        try:
            return ray.get(self._tasks[spec][0])
        except RayError as error:
            return _reason(error)


def _send(source: str, folder: Path, data_dir: Path | None, needs: Needs, limits: Isolation) -> Sent:
    """Put into the object store what the tasks of a model need."""
    data = data_folder(data_dir)
    return Sent(
        source, _sent_folder(folder, "*"), None if data is None else _sent_folder(data, "**/*"), needs.cpus, limits
    )


def _sent_folder(folder: Path, pattern: str) -> SentFolder:
    files = (path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
    return send_folder(folder, (name for name in files if not name.startswith(".")), ray.put)


def _reason(error: RayError) -> Failure:
    """Why a task did not end, for a row."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return explain(error.cause)
    if isinstance(error, OutOfMemoryError):
        return Failure(
            "out_of_memory",
            "its machine ran out of memory, and Ray ended it; use a smaller model, or fewer cells at once",
        )
    return Failure("failed", f"its task was lost: {first_line(error)}")
