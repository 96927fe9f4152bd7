"""A damaged cache costs time, never a cell and never a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slmquant.calib.cached import CapturedFile
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.runs.executors import local
from slmquant.runs.plan import make_plan
from slmquant.runs.runner import run
from slmquant.runs.work import CellJob
from slmquant.store import Store
from slmquant.store.record import Record
from tests.damage import damage
from tests.runs.conftest import here

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def measure(model: Path, data: Path, tmp_path: Path) -> Iterator[Callable[[str], tuple[Record, ...]]]:
    """Runs a plan into the store of the given name."""
    plan = make_plan(
        {
            "models": [str(model)],
            "methods": ["gptq"],
            "schemes": ["W4A16g16"],
            "tasks": ["wikitext2:2"],
            "calibration": {"num_samples": 4, "seq_len": 32},
            "dtype": "float32",
        }
    )

    def measured(name: str, said: list[str] | None = None) -> tuple[Record, ...]:
        with Store(tmp_path / name) as store:
            tell = None if said is None else lambda event: said.append(event.text)
            return run(plan, store, data_dir=data, tell=tell).records

    yield measured


def numbers(records: tuple[Record, ...]) -> dict[tuple[str, str], float]:
    """The figures that are the same in every run."""
    return {
        (record.spec.method, metric.name): metric.value
        for record in records
        for metric in record.metrics
        if metric.unit not in ("s", "bytes", "ratio")
    }


def entries(kind: str) -> list[Path]:
    return sorted((Places().cache_dir / kind).iterdir())


@pytest.mark.parametrize(("kind", "file"), [("statistics", "0003.safetensors"), ("reference", "states.safetensors")])
@pytest.mark.parametrize("at", [-200, None])
def test_what_is_damaged_between_two_runs_is_computed_again(
    measure: Callable[..., tuple[Record, ...]], caplog: pytest.LogCaptureFixture, kind: str, file: str, at: int | None
) -> None:
    first = measure("first.sqlite")
    (entry,) = entries(kind)
    damage(entry / file, at)
    second = measure("second.sqlite")

    assert [record.status for record in second] == ["ok", "ok"]
    assert numbers(second) == numbers(first)
    assert [f"cache: {kind}/{entry.name} was damaged" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("kind", ["statistics", "reference"])
def test_what_is_damaged_while_a_cell_is_about_to_read_it_is_computed_again_within_the_run(
    measure: Callable[..., tuple[Record, ...]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    undisturbed = measure("undisturbed.sqlite")
    tried: list[str] = []

    def disturbed(function: Callable[..., object], job: object, progress: Progress, *rest: object) -> object:
        if isinstance(job, CellJob):
            tried.append(job.spec.method)
            if tried == ["none", "gptq"]:
                for path in entries(kind)[0].glob("*.safetensors"):
                    damage(path, -9)
        return here(function, job, progress)

    monkeypatch.setattr(local, "run_isolated", disturbed)
    said: list[str] = []
    records = measure("disturbed.sqlite", said)

    assert [record.status for record in records] == ["ok", "ok"]
    assert numbers(records) == numbers(undisturbed)
    assert tried == ["none", "gptq", "gptq"] if kind == "statistics" else ["none", "gptq", "none", "gptq"]
    assert any("trying again" in text for text in said)


def test_a_cell_whose_reference_was_removed_meanwhile_is_measured_all_the_same(
    measure: Callable[..., tuple[Record, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []

    def disturbed(function: Callable[..., object], job: object, progress: Progress, *rest: object) -> object:
        result = here(function, job, progress)
        if isinstance(result, CapturedFile) and not removed:
            for entry in (*entries("reference"), result.path):
                removed.append(entry.name)
                entry.rename(entry.with_name(f".{entry.name}"))
        return result

    monkeypatch.setattr(local, "run_isolated", disturbed)
    records = measure("results.sqlite")

    assert len(removed) == 2
    assert {record.spec.method: record.status for record in records} == {"none": "ok", "gptq": "ok"}
