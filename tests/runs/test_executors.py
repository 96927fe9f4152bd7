"""What of an executor shows without a cluster: names, addresses, needs, and folders that are sent."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmquant.errors import CacheError, RefusedError, UnavailableError
from slmquant.machine.environment import environment
from slmquant.progress import Silent
from slmquant.runs.executors.choice import open_executor
from slmquant.runs.executors.cluster import Node, check_alike
from slmquant.runs.executors.local import Local
from slmquant.runs.executors.needs import Needs
from slmquant.runs.executors.parcels import pack, send_folder, unpack
from slmquant.runs.plan import make_plan


def opened(address: str | None) -> None:
    with open_executor("ray", address, Silent()):
        pass


def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(UnavailableError, match=r"Ray is not installed; pip install 'slmquant\[ray\]'"):
        opened(None)
    with open_executor("local", None, Silent()) as executor:
        assert isinstance(executor, Local)


def test_an_address_without_a_cluster_is_named_within_seconds() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(UnavailableError, match=f"no Ray cluster answers at 127.0.0.1:{port} .*ray start --head"):
        opened(f"127.0.0.1:{port}")
    for wrong in ("nonsense", "ray://127.0.0.1:10001", "127.0.0.1:x"):
        with pytest.raises(UnavailableError, match="write HOST:PORT"):
            opened(wrong)


def test_nodes_with_other_versions_are_refused() -> None:
    node = Node("1", "192.0.2.7", 4, 0, 1 << 30)
    mine = environment()
    check_alike(node, mine)
    with pytest.raises(RefusedError, match=r"192\.0\.2\.7 has torch 1\.0 and this machine"):
        check_alike(node, mine.model_copy(update={"versions": mine.versions | {"torch": "1.0"}}))


def test_a_folder_is_received_once_and_read_where_it_is_shared(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "weights").write_bytes(bytes(range(256)))
    fetched: list[int] = []

    def fetch(content: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> object:
        fetched.append(content.size)
        return content

    sent = send_folder(folder, ["config.json", "deep/weights"], lambda content: content)
    assert sent.place(cache, fetch) == folder and not fetched  # type: ignore[arg-type]
    os.utime(folder / "config.json", (0, 0))
    first, second = sent.place(cache, fetch), sent.place(cache, fetch)  # type: ignore[arg-type]

    assert first == second != folder
    assert (first / "deep" / "weights").read_bytes() == bytes(range(256))
    assert fetched == [2, 256]


def test_an_entry_keeps_its_checksums_on_its_way_to_another_cache(tmp_path: Path) -> None:
    from slmquant.cache.entries import checked, get
    from slmquant.cache.write import About, put

    entry = tmp_path / "one" / "precision" / "key"
    put(entry, About("tiny", "a decision"), b"float32")
    parcel = pack([entry], tmp_path / "one")
    unpack(parcel, tmp_path / "two")
    arrived = tmp_path / "two" / "precision" / "key"
    assert get(arrived) == b"float32"
    (arrived / "content.json").write_bytes(b"float16")
    with pytest.raises(CacheError):
        checked(arrived, "content.json")
    unpack(parcel, tmp_path / "two")
    assert get(arrived) == b"float32"


def test_a_cell_takes_the_smallest_node_and_an_engine_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [Node("1", "a", 4, 0, 8 << 30), Node("2", "b", 16, 1, 64 << 30), Node("3", "c", 0, 0, 4 << 30)]
    plan = make_plan({"models": ["tiny"], "methods": ["rtn"], "schemes": ["W8A8"], "tasks": ["wikitext2:2"]})
    card = plan.model_copy(update={"device": "cuda"})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    found = Needs.of(plan, machines)
    assert (found.cell(10**6)["num_cpus"], found.engine()["num_cpus"], found.engine_threads) == (4, 16, 16)
    assert found.cell(10**6)["memory"] == 16 * 10**6 + (1 << 30) and found.cell(10**12)["memory"] == 8 << 30
    assert Needs.of(card, machines).cell(1)["num_cpus"] == 16 and Needs.of(card, machines).cell(1)["num_gpus"] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert Needs.of(plan, machines) == replace(found, cpus=2, engine_threads=2)
    with pytest.raises(RefusedError, match="no node of the Ray cluster has a processor and a card"):
        Needs.of(card, machines[:1])
