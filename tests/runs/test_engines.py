"""Engines are measured side by side, each in its own process; what goes wrong with one is its own row."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from slmquant.engine_bench import session
from slmquant.engine_bench.figures import TokenCost
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Reference, Settings
from slmquant.engine_bench.parity import Windows, write_reference
from slmquant.engine_bench.process import EngineProcess
from slmquant.engine_bench.requests import Open, Point
from slmquant.engine_bench.session import run_engines
from slmquant.engines.common.contract import OpenOptions
from slmquant.machine.limits import MachineLimits
from slmquant.machine.process import Failure
from tests import made_up_engines
from tests.made_up_engines import VOCAB, Bigram

TOKENS = np.random.default_rng(0).integers(VOCAB, size=(2, 40))
WINDOWS = Windows(tokens=tuple(tuple(int(t) for t in row) for row in TOKENS), text="made up")
SETTINGS = Settings(points=(Point(0, 2), Point(8, 2)), rounds=2, threads=(1,), timeout_s=60, limit_s=0.01)


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reference:
    (tmp_path / "path").mkdir()
    made_up_engines.install(tmp_path / "path", monkeypatch)
    write_reference(Bigram(OpenOptions(1, 64)), WINDOWS, tmp_path / "reference", "bigram")
    return Reference(tmp_path / "reference", WINDOWS)


@pytest.fixture
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are known, which costs a process with torch to measure."""
    monkeypatch.setattr(session, "_limits", lambda *_: MachineLimits(1, 1e10, 1e11, 1e11))


def job(engine: str, reference: Reference | None = None, **fields: object) -> EngineJob:
    return EngineJob(engine, engine, Path("model.bin"), reference, **fields)  # type: ignore[arg-type]


def names(result: EngineResult) -> set[str]:
    return {metric.name for metric in result.metrics}


@pytest.mark.usefixtures("known_limits")
def test_whatever_goes_wrong_with_one_engine_the_others_go_on(reference: Reference) -> None:
    engines = ("right", "wrong", "missing", "unreadable", "buggy", "crashing", "undefined", "nowhere", "talking")

    results = run_engines([job(engine, reference) for engine in engines], SETTINGS, baseline=0)

    found = {result.job.engine: (result.status, result.reason or "") for result in results}
    assert tuple(found) == engines
    assert found["right"] == found["talking"] == ("ok", "")
    assert found["wrong"][0] == "failed" and "perplexity" in found["wrong"][1]
    assert found["missing"] == ("failed", "made-up is not installed; pip install slmquant[made-up]")
    assert found["unreadable"] == ("failed", "model.bin is of version 9, made-up reads up to 3; update it")
    assert found["buggy"][0] == "failed" and "KeyError at buggy.py" in found["buggy"][1]
    assert found["crashing"][0] == "failed"
    assert "SIGABRT" in found["crashing"][1] and "its last lines: GGML_ASSERT: all is lost" in found["crashing"][1]
    assert found["undefined"][0] == "failed" and "not finite" in found["undefined"][1]
    assert found["nowhere"][0] == "failed" and "unknown engine 'nowhere'" in found["nowhere"][1]
    by_engine = {result.job.engine: result for result in results}
    assert "parity_kl_mean" in names(by_engine["wrong"])  # with the difference
    assert not any("tokens_per_s" in name for name in names(by_engine["wrong"]))
    assert "parity_kl_mean" in names(by_engine["crashing"])  # what was measured before is kept
    assert any("decode_speedup@8" in name for name in names(by_engine["talking"]))
    assert not any("speedup" in name for name in names(by_engine["right"]))


@pytest.mark.usefixtures("known_limits")
def test_an_engine_that_hangs_is_ended(reference: Reference) -> None:
    said = ""
    for seconds in (3, 12, 48, 192):  # a busy machine may need more until the engine says its first line
        (result,) = run_engines([job("hanging")], replace(SETTINGS, timeout_s=seconds))
        said = result.reason or ""
        assert result.status == "timeout" and f"Open was stopped after {seconds} s" in said
        if "last lines" in said:
            break

    assert "last lines: loading, loading" in said
    assert not any("slmquant.engine_bench" in " ".join(child.cmdline()) for child in psutil.Process().children())


def test_raw_samples_are_kept_for_every_round_and_the_first_does_not_count(reference: Reference) -> None:
    (result,) = run_engines([job("right", reference, cost=TokenCost(100, 50))], SETTINGS)

    at_eight = [item for item in result.items if "@8" in item.task]
    assert [item.item for item in at_eight] == ["0", "1"]
    assert {"prefill_s", "step_0_s", "step_1_s"} <= set(at_eight[0].values)
    assert all(item.values["decode_s"] == item.values["step_0_s"] + item.values["step_1_s"] for item in at_eight)
    rate = next(m for m in result.metrics if m.name.startswith("decode_tokens_per_s@8"))
    samples = [2 / (item.values["step_0_s"] + item.values["step_1_s"]) for item in at_eight]
    assert rate.value == pytest.approx(np.median(samples)) and rate.n == 2
    assert any(name.startswith("decode_bandwidth_share@8") for name in names(result))
    assert any(name.startswith("prefill_flop_share@8") for name in names(result))


@pytest.mark.usefixtures("known_limits")
def test_ratios_are_kept_round_by_round_so_that_they_can_be_resampled(reference: Reference) -> None:
    mine, full = run_engines([job("talking"), job("right")], replace(SETTINGS, rounds=3), baseline=1)

    ours = [item for item in mine.items if "@8" in item.task]
    theirs = [item for item in full.items if "@8" in item.task]
    ratios = [b.values["decode_s"] / a.values["decode_s"] for a, b in zip(ours, theirs, strict=True)]
    assert [item.values["decode_speedup"] for item in ours] == pytest.approx(ratios)
    assert all("prefill_speedup" in item.values for item in ours)
    assert not any("decode_speedup" in item.values for item in theirs)
    speedup = next(m for m in mine.metrics if m.name.startswith("decode_speedup@8"))
    assert speedup.value == pytest.approx(np.median(ratios)) and speedup.stderr is not None


@pytest.mark.usefixtures("known_limits")
def test_what_is_absent_is_told(reference: Reference) -> None:
    short, untimed = run_engines(
        [job("right", context_limit=8), job("right", reference, no_speed="no speed: it is made up")], SETTINGS
    )

    assert any(
        "takes at most 8 tokens: contexts of 8 tokens were shortened, the longest is 6" in note for note in short.notes
    )
    assert any(name.startswith("decode_tokens_per_s@6") for name in names(short))
    assert any("4 steps were timed after 6 tokens" in note and "p99" in note for note in short.notes)
    assert any("there is no reference" in note for note in short.notes)
    assert any(name.startswith("decode_tokens_per_s@0") for name in names(short))
    assert "no speed: it is made up" in untimed.notes and untimed.status == "ok"
    assert not any("tokens_per_s" in name for name in names(untimed)) and "parity_kl_mean" in names(untimed)


def test_who_is_not_asked_is_stopped_and_ends_with_its_context(reference: Reference) -> None:
    with EngineProcess(threads=1) as process:
        opened = process.ask(Open("right", Path("model.bin"), OpenOptions(1, 16)), 60)
        child = psutil.Process(process._child.pid)

        assert not isinstance(opened, Failure) and opened.version == "made-up 1" and opened.vocab == VOCAB
        time.sleep(0.1)
        assert child.status() == psutil.STATUS_STOPPED
        assert not isinstance(process.ask(Point(4, 2), 60), Failure)
    assert not child.is_running()
    assert isinstance(process.ask(Point(4, 2), 60), Failure)


@pytest.mark.usefixtures("known_limits")
def test_an_engine_runs_where_there_is_no_scratch_folder(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", none)

    right, unreadable = run_engines([job("right", reference), job("unreadable", reference)], SETTINGS)

    assert right.status == "ok" and unreadable.status == "failed" and "version 9" in (unreadable.reason or "")


def test_an_engines_process_does_not_hold_torch(reference: Reference) -> None:
    with EngineProcess(threads=1) as process:
        process.ask(Open("right", Path("model.bin"), OpenOptions(1, 16)), 60)
        maps = Path(f"/proc/{process._child.pid}/maps")
        if not maps.exists():
            pytest.skip("reads /proc")
        assert "libtorch" not in maps.read_text()
