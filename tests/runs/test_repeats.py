"""A cell costs the same in any plan, and what is over in seconds is run again without leaving a trace."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from slmquant.calib.cached import CaptureJob, run_capture
from slmquant.machine.process import Failure, run_isolated
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.runs import repeats, runner
from slmquant.runs.executors import local
from slmquant.runs.plan import make_plan
from slmquant.runs.repeats import SHORT_CPU_S
from slmquant.runs.runner import run
from slmquant.runs.work import CellJob
from slmquant.store import Store
from slmquant.store.record import Record
from tests.runs.conftest import here
from tests.runs.test_runner import die

pytestmark = pytest.mark.usefixtures("alone")


def measured(model: Path, data: Path, store: Path, *names: str) -> dict[str, Record]:
    plan = make_plan(
        {
            "models": [str(model)],
            "methods": list(names),
            "schemes": ["W8A8"],
            "tasks": ["wikitext2:2"],
            "calibration": {"num_samples": 4, "seq_len": 32},
            "dtype": "float32",
        }
    )
    with Store(store) as opened:
        return {record.spec.method: record for record in run(plan, opened, data_dir=data).records}


def test_a_method_pays_for_its_own_statistics_whoever_stands_beside_it(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str]] = []

    def watched(function: Callable[..., object], job: object, progress: Progress, *rest: object) -> object:
        if function is run_capture:
            assert isinstance(job, CaptureJob)
            asked.append(frozenset(job.wanted))
        return here(function, job, progress)

    monkeypatch.setattr(local, "run_isolated", watched)
    together = measured(model, data, tmp_path / "together.sqlite", "smoothquant", "gptq")
    monkeypatch.setattr(runner, "Places", partial(Places, cache_dir=tmp_path / "another cache"))
    alone = measured(model, data, tmp_path / "alone.sqlite", "smoothquant")

    first, gptq, last = asked
    assert first == last < gptq | {"range"} and first != gptq
    for name in ("perplexity", "kl_mean"):
        assert together["smoothquant"].metric(name) == alone["smoothquant"].metric(name)
    spent = [next(p for p in cells["smoothquant"].phases if p.name == "capture") for cells in (together, alone)]
    assert all(phase.shared and phase.cpu_s is not None for phase in spent)


def test_short_quantizations_are_repeated_and_long_ones_are_not(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = measured(model, data, tmp_path / "long.sqlite", "rtn")["rtn"]
    monkeypatch.setattr(repeats, "SHORT_CPU_S", SHORT_CPU_S)
    short = measured(model, data, tmp_path / "short.sqlite", "rtn")["rtn"]
    runs = {name: next(p for p in r.phases if p.name == "quantize").repeated for name, r in (("s", short), ("l", long))}

    assert len(runs["s"]) == repeats.RUNS and not runs["l"]
    assert short.metric("perplexity") == long.metric("perplexity")
    assert short.metric("kl_mean") == long.metric("kl_mean")
    spent = short.metric("quantize_cpu_s")
    assert spent is not None and spent.value == sorted(run.cpu_s for run in runs["s"])[1]
    assert "median of 3 runs" in str(spent.protocol)


def test_a_repetition_that_fails_leaves_the_cell_as_it_was(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "SHORT_CPU_S", SHORT_CPU_S)
    monkeypatch.setattr(repeats, "run_isolated", lambda *_: Failure("out_of_memory", "killed"))
    record = measured(model, data, tmp_path / "one.sqlite", "rtn")["rtn"]

    assert record.status == "ok"
    assert not any(phase.repeated for phase in record.phases)


def test_a_worker_that_is_killed_ends_its_own_row_and_the_sweep_goes_on(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(function: Callable[..., object], job: object, progress: Progress, *rest: object) -> object:
        if isinstance(job, CellJob) and job.spec.method == "rtn":
            return run_isolated(die, int(signal.SIGKILL), progress)
        return here(function, job, progress)

    monkeypatch.setattr(local, "run_isolated", killed)
    records = measured(model, data, tmp_path / "one.sqlite", "rtn", "smoothquant")

    assert {name: record.status for name, record in records.items()} == {
        "none": "ok",
        "rtn": "out_of_memory",
        "smoothquant": "ok",
    }
    assert "killed" in str(records["rtn"].reason)
