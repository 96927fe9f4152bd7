"""Fixtures of runs: a model that is made up on the spot, and small real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slmquant.calib import hub
from slmquant.errors import SlmquantError
from slmquant.machine.process import FREE, Isolation, explain
from slmquant.model.sources.pull import pull
from slmquant.progress import Progress
from slmquant.runs import repeats
from slmquant.runs.executors import local
from slmquant.tasks.common.lm_eval import rows
from tests.runs.made_up import make_data, make_model

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def data_dir() -> Path:
    """A local folder of data, beside the repository or named by SLMQUANT_DATA."""
    folder = Path(os.environ.get("SLMQUANT_DATA") or SHARED / "data")
    if not folder.is_dir():
        pytest.skip("no local folder of data; set SLMQUANT_DATA")
    return folder


@pytest.fixture
def stories260k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> str:
    """stories260k in a cache of the test's own."""
    source = data_dir.parent / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip("models/stories260k is not beside the data folder")
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    pull("stories260k", local=source)
    return "stories260k"


def here(function: Callable[..., object], argument: object, progress: Progress, isolation: Isolation = FREE) -> object:
    """Stands for a process of its own."""
    del isolation
    try:
        return function(argument, progress)
    except SlmquantError as error:
        return explain(error)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known_relations: None) -> None:
    """Without a hub, with a cache of its own, and all work in this process, each once."""
    del known_relations
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(rows, "reachable", lambda: False)
    for module in (local, repeats):
        monkeypatch.setattr(module, "run_isolated", here)
    monkeypatch.setattr(repeats, "SHORT_CPU_S", 0.0)  # what takes no time is not run again for its median
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random model of two layers in a folder, with a tokenizer that was trained on the spot."""
    return make_model(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A local folder of data: two texts, and 12 ARC questions."""
    return make_data(tmp_path)
