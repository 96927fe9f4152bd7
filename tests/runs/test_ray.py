"""A plan on a Ray cluster of two nodes that share no folder: the records of one machine, whatever is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from slmquant.errors import RefusedError
from slmquant.progress import Silent
from slmquant.runs.executors.choice import open_executor
from slmquant.runs.plan import make_plan
from slmquant.runs.rows import Event
from slmquant.runs.runner import run
from slmquant.store import Store
from slmquant.store.record import Record

pytest.importorskip("ray", reason="Ray is not installed; pip install 'slmquant[ray]'")
pytestmark = pytest.mark.engine

_PATIENCE_S = 300
_QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
}


class Machines:
    """A cluster of two nodes on this machine, each with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder, self._number = folder, 0
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"include_dashboard": False, "_system_config": _QUICK, **self._node()}
        )
        self.second = self.cluster.add_node(**self._node())

    def _node(self) -> dict[str, Any]:
        self._number += 1
        cache = str(self._folder / f"node {self._number}")
        return {
            "num_cpus": 1, "object_store_memory": 80_000_000, "include_log_monitor": False,
            "env_vars": {"SLMQUANT_CACHE": cache, "SLMQUANT_DATA": "", "OMP_NUM_THREADS": "1"},
        }  # fmt: skip

    def lose_one(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def add_one(self) -> None:
        self.second = self.cluster.add_node(**self._node())

    def workers(self) -> list[psutil.Process]:
        """Processes that run a cell now."""
        nodes = (self.cluster.head_node, *self.cluster.worker_nodes)
        raylets = [info.process.pid for node in nodes for info in node.all_processes["raylet"]]
        found = [child for raylet in raylets for child in psutil.Process(raylet).children()]
        return [child for child in found if "ray::run_cell" in " ".join(child.cmdline())]

    def end(self) -> None:
        for node in (*self.cluster.worker_nodes, self.cluster.head_node):
            self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    found = Machines(tmp_path_factory.mktemp("nodes"))
    yield found
    found.end()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)


def fields(model: Path, **more: object) -> dict[str, object]:
    return {
        "models": [str(model)],
        "methods": ["rtn", "gptq"],
        "schemes": ["W8A8", "Q3_K_M"],
        "tasks": ["wikitext2:2"],
        "calibration": {"num_samples": 4, "seq_len": 32},
        "dtype": "float32",
    } | more


def on_ray(
    machines: Machines, plan: dict[str, object], store: Path, data: Path, tell: Callable[[Event], None] | None = None
) -> tuple[Record, ...]:
    address = str(machines.cluster.address)
    with open_executor("ray", address, Silent()) as executor, Store(store) as opened:
        return run(make_plan(plan), opened, data_dir=data, tell=tell, executor=executor).records


def here(plan: dict[str, object], store: Path, data: Path) -> tuple[Record, ...]:
    with Store(store) as opened:
        return run(make_plan(plan), opened, data_dir=data).records


def facts(records: tuple[Record, ...]) -> dict[str, object]:
    """What does not depend on the machine: not times, memory and environment."""
    costs = ("_s", "_bytes", "noise")
    return {
        record.cell_id: (
            record.spec, record.status, record.reason, record.data, record.model, [p.name for p in record.phases],
            [m for m in record.metrics if m.name == "stored_bytes" or not m.name.endswith(costs)],
        )
        for record in records
    }  # fmt: skip


def nothing_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes do not see the folders of the machine that runs the command."""
    from slmquant.runs.executors import ray as executor
    from slmquant.runs.executors.parcels import send_folder

    monkeypatch.setattr(
        executor, "send_folder", lambda *arguments: replace(send_folder(*arguments), path=Path("/absent"))
    )


def test_records_are_those_of_one_machine(
    machines: Machines, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_shared(monkeypatch)
    events: list[Event] = []
    remote = on_ray(machines, fields(model), tmp_path / "ray.sqlite", data, events.append)
    again = on_ray(machines, fields(model), tmp_path / "ray.sqlite", data)

    assert facts(remote) == facts(here(fields(model), tmp_path / "here.sqlite", data))
    assert sorted(record.status for record in remote) == ["ok"] * 3 + ["refused"] * 2
    assert sum(event.record is not None for event in events) == 5
    assert facts(again) == facts(remote)


def test_a_lost_worker_and_a_lost_node_cost_no_row(machines: Machines, model: Path, data: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def disturb(event: Event) -> None:
        said.append(event.text)
        if event.record is not None and event.done == 1:  # the reference has ended
            until = time.monotonic() + _PATIENCE_S
            while not (found := machines.workers()) and time.monotonic() < until:
                time.sleep(0.1)
            for worker in found:
                worker.kill()
            machines.lose_one()

    plan = fields(model, schemes=["W8A8", "W4A16g16"])
    try:
        remote = on_ray(machines, plan, tmp_path / "ray.sqlite", data, disturb)
    finally:
        machines.add_one()

    assert facts(remote) == facts(here(plan, tmp_path / "here.sqlite", data))
    assert {record.status for record in remote} == {"ok"}
    assert any("was lost; what ran there runs again on another" in text for text in said)


@pytest.mark.parametrize(
    ("change", "statuses"),
    [
        ({"calibration": {"num_samples": 10**6}}, ["failed", "ok", "ok"]),
        ({"timeout_s": 0.001}, ["timeout"] * 3),
    ],
)
def test_a_cell_that_fails_or_hangs_is_a_row_with_the_same_reason(
    machines: Machines, model: Path, data: Path, tmp_path: Path, change: dict[str, object], statuses: list[str]
) -> None:
    plan = fields(model, schemes=["W8A8"], **change)
    remote = on_ray(machines, plan, tmp_path / "ray.sqlite", data)

    assert sorted(record.status for record in remote) == statuses
    assert facts(remote) == facts(here(plan, tmp_path / "here.sqlite", data))


def test_a_killed_command_goes_on_when_it_is_repeated(
    machines: Machines, model: Path, data: Path, tmp_path: Path
) -> None:
    store = tmp_path / "ray.sqlite"
    words = [
        sys.executable, "-m", "slmquant", "bench", str(model), "--methods", "rtn,gptq", "--schemes", "W8A8",
        "--tasks", "wikitext2:2", "--samples", "4", "--seq-len", "32", "--dtype", "float32", "--data", str(data),
        "--store", str(store), "--report", str(tmp_path / "report"),
        "--executor", "ray", "--address", str(machines.cluster.address),
    ]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as command:
        assert command.stderr is not None
        line = next(line for line in command.stderr if b"1/3" in line)
        command.send_signal(signal.SIGKILL)
    done = subprocess.run(words, capture_output=True, check=False, timeout=_PATIENCE_S)

    assert b": ok" in line
    assert done.returncode == 0, done.stderr.decode()
    assert b"none/W16A16: ok, done before" in done.stderr
    plan = fields(model, schemes=["W8A8"])
    with Store(store) as opened:
        remote = tuple(opened.records())
    assert facts(remote) == facts(here(plan, tmp_path / "here.sqlite", data))


def test_a_plan_that_stops_early_is_refused_before_anything_starts(
    machines: Machines, model: Path, data: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    plan = fields(model, until_separated=0.95)
    with pytest.raises(RefusedError, match="use --executor local"):
        on_ray(machines, plan, tmp_path / "ray.sqlite", data, events.append)
    assert not events
