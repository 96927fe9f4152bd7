"""A run ends every cell as a row, resumes, isolates failures, and repeats itself bit for bit."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from slmquant.errors import NumericalError, RefusedError, SourceError
from slmquant.machine.process import Failure, Isolation, run_isolated
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.runs.inputs import Data
from slmquant.runs.plan import make_plan
from slmquant.runs.rows import Event, Rows
from slmquant.runs.runner import _Bench, run
from slmquant.store import Store
from slmquant.store.record import Metric
from slmquant.tasks.common.contract import TaskResult
from slmquant.tracks.task_checkpoints import TaskCheckpoint, TaskCheckpoints
from tests.narrowed import present

FIELDS = {"models": ["tiny"], "methods": ["rtn"], "schemes": ["W8A8"], "tasks": ["wikitext2:2"]}


def answer(value: object, progress: Progress) -> object:
    progress.start("work", 2)
    progress.advance(2)
    return value


def refuse(value: object, progress: Progress) -> object:
    raise RefusedError("not with this model")


def diverge(value: object, progress: Progress) -> object:
    raise NumericalError("the loss of window 3 is nan")


def exhaust(value: object, progress: Progress) -> object:
    raise MemoryError("cannot allocate memory for 10 GB")


def crash(value: object, progress: Progress) -> object:
    raise ZeroDivisionError("a bug")


def die(value: int, progress: Progress) -> object:
    os.kill(os.getpid(), value)
    time.sleep(30)
    return None


def hang(value: object, progress: Progress) -> object:
    time.sleep(60)
    return None


class Recorder:
    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.steps = 0

    def start(self, phase: str, total: int | None) -> None:
        self.phases.append((phase, total))

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


class TestIsolation:
    def test_values_and_progress_cross(self) -> None:
        recorder = Recorder()

        assert run_isolated(answer, {"a": 1}, recorder) == {"a": 1}
        assert recorder.phases == [("work", 2)]
        assert recorder.steps == 2

    @pytest.mark.parametrize(
        ("work", "status", "reason"),
        [
            (refuse, "refused", "not with this model"),
            (diverge, "failed", "window 3 is nan"),
            (exhaust, "out_of_memory", "cannot allocate memory"),
            (crash, "failed", "ZeroDivisionError at test_runner.py"),
        ],
    )
    def test_what_is_raised_becomes_a_status(
        self, work: Callable[[object, Progress], object], status: str, reason: str
    ) -> None:
        failure = run_isolated(work, None, Silent())

        assert isinstance(failure, Failure)
        assert failure.status == status
        assert reason in failure.reason

    @pytest.mark.parametrize(
        ("number", "status", "reason"),
        [(signal.SIGKILL, "out_of_memory", "killed by the system"), (signal.SIGSEGV, "failed", "SIGSEGV")],
    )
    def test_a_process_that_dies_leaves_a_failure(self, number: int, status: str, reason: str) -> None:
        failure = run_isolated(die, int(number), Silent())

        assert isinstance(failure, Failure)
        assert failure.status == status
        assert reason in failure.reason

    def test_a_process_that_hangs_is_stopped(self) -> None:
        started = time.monotonic()
        failure = run_isolated(hang, None, Silent(), Isolation(timeout_s=0.5))

        assert isinstance(failure, Failure)
        assert failure.status == "timeout"
        assert time.monotonic() - started < 20


def test_a_killed_process_does_not_change_the_identity_of_cells() -> None:
    class Flaky:
        """Its first process is killed."""

        calls = 0

        def hash_data(self, job: object) -> object:
            del job
            self.calls += 1
            return Failure("out_of_memory", "killed") if self.calls == 1 else Data({}, {})

    said: list[Event] = []
    plan, places = make_plan(FIELDS), Places(None, Path())
    rows = Rows(None, places, said.append, 1)  # type: ignore[arg-type]  # nothing is stored
    bench = _Bench(plan, places, rows, Silent(), Flaky())  # type: ignore[arg-type]

    assert bench._data == Data({}, {})
    assert not said


@pytest.mark.real_model
class TestStories260k:
    """The whole journey on a true float32 model of a megabyte."""

    @pytest.fixture(autouse=True)
    def _plan(self, monkeypatch: pytest.MonkeyPatch, stories260k: str, data_dir: Path) -> None:
        monkeypatch.setenv("SLMQUANT_DATA", str(data_dir))
        self.plan = make_plan(
            {
                "models": [stories260k],
                "methods": ["rtn", "gptq", "smoothquant"],
                "schemes": ["W8A8", "W4A16g16", "Q3_K_M"],
                "tasks": ["tinystories:3"],
                "calibration": {"corpus": "tinystories", "num_samples": 8, "seq_len": 64},
                "dtype": "float32",
            }
        )

    def values(self, path: Path) -> dict[tuple[str, str | None], float]:
        with Store(path) as store:
            records = run(self.plan, store).records
        measured = ("perplexity", "kl_mean", "kl_p99", "top1_agreement", "stored_bytes")
        return {
            (record.spec.label, metric.name): metric.value
            for record in records
            for metric in record.metrics
            if metric.name in measured
        }

    def test_every_cell_is_a_row_and_a_second_run_does_nothing(self, tmp_path: Path) -> None:
        events: list[Event] = []
        with Store(tmp_path / "results.sqlite") as store:
            first = run(self.plan, store, tell=events.append)
            again = run(self.plan, store)

        assert [record.status for record in first.records] == ["ok"] * 7 + ["refused"] * 3
        assert first.skipped == 0
        assert again.skipped == 10
        assert again.records == first.records
        assert sum(event.record is not None for event in events) == 10

    def test_a_cell_takes_what_was_answered_before_it_was_stopped(self, tmp_path: Path) -> None:
        plan = self.plan.model_copy(update={"methods": ("rtn",), "schemes": ("W8A8",)})
        with Store(tmp_path / "before.sqlite") as store:
            reference, cell = (record.spec for record in run(plan, store).records)
        kept = Metric(name="perplexity", value=12.5, unit="1", higher_is_better=False, task="tinystories:3")
        answered = TaskCheckpoints.of(cell, Places())
        answered.keep(cell.tasks[0], TaskCheckpoint(TaskResult((kept,), ()), 3600.0, 1 << 40))
        with Store(tmp_path / "results.sqlite") as store:
            first, second = run(plan, store).records

        assert (first.spec, second.spec) == (reference, cell)
        assert first.reason is None
        assert second.metric("perplexity") == kept
        assert second.reason == "answered before an interruption, and kept: tinystories:3"
        assert present(second.metric("evaluate_s")).value > 3600
        assert not list(answered.prefix.parent.iterdir())

    def test_a_fresh_run_gives_the_same_numbers_bit_for_bit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.values(tmp_path / "one.sqlite")
        monkeypatch.setattr("slmquant.runs.runner.Places", partial(Places, cache_dir=tmp_path / "another cache"))

        assert self.values(tmp_path / "two.sqlite") == first
        assert len(first) == 1 * 2 + 6 * 5

    def test_no_window_is_longer_than_the_model_takes(self, tmp_path: Path) -> None:
        long = self.plan.calibration.model_copy(update={"seq_len": 4096, "num_samples": 2})
        plan = self.plan.model_copy(
            update={"calibration": long, "methods": ("gptq", "gptaq"), "schemes": ("W4A16g16",)}
        )
        with Store(tmp_path / "results.sqlite") as store:
            reference, *quantized = run(plan, store).records

        assert reference.reason is None
        assert [record.status for record in quantized] == ["ok", "ok"]
        for record in quantized:
            assert "windows of 512 tokens instead of 4096" in str(record.reason)
            assert present(record.metric("calibration_tokens")).value == 2 * 512

    def test_a_model_that_was_missing_leaves_no_rows_once_it_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(source: str) -> None:
            raise SourceError(f"{source} is not here")

        plan = self.plan.model_copy(update={"methods": ("rtn",), "schemes": ("W8A8",)})
        with Store(tmp_path / "results.sqlite") as store:
            with monkeypatch.context() as absent:
                absent.setattr("slmquant.runs.runner.identify", missing)
                run(plan, store)
            assert {record.status for record in store.records()} == {"failed"}
            found = run(plan, store).records

            assert [record.status for record in store.records()] == [record.status for record in found] == ["ok", "ok"]

    def test_a_device_that_is_not_here_is_refused_before_anything_runs(self, tmp_path: Path) -> None:
        with Store(tmp_path / "results.sqlite") as store, pytest.raises(RefusedError, match="use cpu"):
            run(self.plan.model_copy(update={"device": "abacus"}), store)

    def test_a_cell_that_lacks_its_corpus_fails_alone(self, tmp_path: Path) -> None:
        plan = self.plan.model_copy(
            update={"calibration": self.plan.calibration.model_copy(update={"num_samples": 10**6})}
        )
        with Store(tmp_path / "results.sqlite") as store:
            records = run(plan, store).records

        by_method = {(record.spec.method, record.spec.scheme): record for record in records}
        assert by_method["rtn", "W8A8"].status == "ok"
        assert by_method["gptq", "W8A8"].status == "failed"
        assert "such windows fit" in str(by_method["gptq", "W8A8"].reason)
