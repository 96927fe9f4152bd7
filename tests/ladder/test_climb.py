"""Measuring a ladder: what is refused before anything is made, what is stored, what is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from slmquant import engines
from slmquant.analysis.ladder import ladder
from slmquant.cli import app
from slmquant.engine_bench.jobs import EngineJob, EngineResult, Settings
from slmquant.errors import RefusedError, SpaceError, UnavailableError, UnknownNameError
from slmquant.ladder import climb as climbing
from slmquant.ladder.climb import Climb, climb, usable_engines
from slmquant.ladder.cost import check_fits, cost_of
from slmquant.ladder.files import FilesJob, RandomFile, random_model, write_files
from slmquant.ladder.rungs import RUNGS, WIDTHS, Rung, rungs_of
from slmquant.machine.process import Failure
from slmquant.model.size import count_parameters
from slmquant.principles.common.cells import models_of
from slmquant.progress import Progress, Silent
from slmquant.runs.rows import Event
from slmquant.store.random_weights import RANDOM_WEIGHTS, is_random
from slmquant.store.record import ItemOutcome
from slmquant.store.sqlite import Store
from tests import invented

TINY = Rung("tiny", "nothing", 300, 64, 96, 2, 2, 1, 32)
NAMES = ("artifact_bytes", "inference_added_rss_bytes", "load_s")


class Bench:
    """Stands in for processes: files are written and timed in no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Failure | None = None) -> None:
        self.timed: list[list[str]] = []
        self.failure = failure
        monkeypatch.setattr(climbing, "run_isolated", self.write)
        monkeypatch.setattr(climbing, "run_engines", self.run)

    def write(
        self, function: Callable[..., object], job: FilesJob, progress: Progress
    ) -> dict[str, RandomFile | Failure]:
        assert function is write_files
        files: dict[str, RandomFile | Failure] = {
            scheme: RandomFile(job.folder / scheme, round(job.rung.parameters * bits / 8))
            for scheme, bits in WIDTHS.items()
        }
        return files if self.failure is None else {**files, "W4A16g32E4": self.failure}

    def run(
        self, jobs: Sequence[EngineJob], settings: Settings, baseline: int | None, progress: Progress
    ) -> tuple[EngineResult, ...]:
        assert baseline == 0 and all(job.reference is None for job in jobs)
        self.timed.append([job.label for job in jobs])
        metrics = tuple(invented.metric(name, 1e6) for name in NAMES)
        values = {"decode_s": 1.0, "prefill_s": 1.0, "step_0_s": 1.0}
        items = tuple(ItemOutcome(task="engine@512", item=str(turn), values=values) for turn in range(settings.rounds))
        return tuple(EngineResult(job, "ok", None, "1", metrics, items, (job.no_reference,)) for job in jobs)


def ignore(event: Event) -> None:
    del event


@pytest.mark.parametrize(("name", "millions"), [("15m", 15.2), ("135m", 134.5), ("270m", 268.1), ("500m", 493.8)])
def test_sizes_have_the_parameters_of_the_models_that_they_are_like(name: str, millions: float) -> None:
    """Gemma has four norms a block and Qwen biases, which are too few to matter."""
    assert RUNGS[name].parameters / 1e6 == pytest.approx(millions, rel=2e-3)


def test_a_model_has_the_parameters_that_its_size_says_and_is_the_same_each_time() -> None:
    first, again = random_model(TINY), random_model(TINY)

    assert count_parameters(first) == TINY.parameters
    assert all((one == other).all() for one, other in zip(first.parameters(), again.parameters(), strict=True))


def test_sizes_grow() -> None:
    sizes = [rung.parameters for rung in RUNGS.values()]
    assert sizes == sorted(sizes) and rungs_of(["500m", "15m"]) == (RUNGS["15m"], RUNGS["500m"])


def test_every_cell_is_another_and_says_that_its_weights_are_random() -> None:
    specs = [
        spec for rung in RUNGS.values() for engine in ("llamacpp", "openvino") for spec in rung.cells(engine).values()
    ]

    assert len({spec.cell_id for spec in specs}) == len(specs) == 2 * 3 * len(RUNGS)
    assert all(spec.model.startswith("random-") and not spec.tasks for spec in specs)
    assert [spec.is_reference for spec in TINY.cells("llamacpp").values()] == [True, False, False]


def test_a_ladder_is_measured_stored_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench, plan = Bench(monkeypatch), Climb((RUNGS["15m"], RUNGS["42m"], RUNGS["135m"]), ("llamacpp", "openvino"), 4)
    with Store(tmp_path / "ladder.sqlite") as store:
        records = climb(plan, store, Silent(), ignore)
        found = ladder(store.records(), store.items)

    assert len(records) == plan.cells == 18 and len(bench.timed) == 6
    assert [len(one.files) for one in found.engines] == [9, 9]
    assert all(is_random(record) and RANDOM_WEIGHTS in str(record.reason) for record in records)
    assert {record.model.provenance for record in records if record.model} == {RANDOM_WEIGHTS}
    assert found.engines[0].files[0].weight_bytes == 2 * RUNGS["15m"].parameters


def test_no_quality_is_read_from_random_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Bench(monkeypatch)
    with Store(tmp_path / "ladder.sqlite") as store:
        records = climb(Climb((TINY,), ("llamacpp",), 2), store, Silent(), ignore)

    assert models_of(records, lambda _: []) == []


def test_what_is_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench, events = Bench(monkeypatch), list[Event]()
    with Store(tmp_path / "ladder.sqlite") as store:
        climb(Climb((TINY,), ("llamacpp",), 2), store, Silent(), ignore)
        records = climb(Climb((TINY, RUNGS["15m"]), ("llamacpp",), 2), store, Silent(), events.append)

    assert [labels[0].split("/")[0] for labels in bench.timed] == ["random-tiny", "random-15m"]
    assert sum(event.skipped for event in events) == 3 and len(records) == 6


def test_what_another_machine_measured_is_measured_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench, plan = Bench(monkeypatch), Climb((TINY,), ("llamacpp",), 2)
    with Store(tmp_path / "ladder.sqlite") as store:
        for record in climb(plan, store, Silent(), ignore):
            other = record.environment.model_copy(update={"cpu": "Abacus"})
            store.put(record.model_copy(update={"environment": other}))
        climb(plan, store, Silent(), ignore)

    assert len(bench.timed) == 2


def test_a_file_that_cannot_be_written_is_a_row_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, Failure("refused", "no 4 bits here"))
    with Store(tmp_path / "ladder.sqlite") as store:
        records = climb(Climb((TINY,), ("llamacpp",), 2), store, Silent(), ignore)

    assert [(record.status, record.reason) for record in records][2] == ("refused", "no 4 bits here")
    assert [record.status for record in records] == ["ok", "ok", "refused"] and len(bench.timed[0]) == 2


def test_sizes_that_do_not_fit_are_refused_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2_000_000_000))

    check_fits([RUNGS["15m"], RUNGS["42m"]])
    with pytest.raises(RefusedError, match=r"135m takes about 3\.\d+ GB.*2 GB are free; use --sizes 15m,42m"):
        check_fits([RUNGS["15m"], RUNGS["135m"]])


def test_a_full_disk_is_told_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))

    with pytest.raises(SpaceError, match="TMPDIR"):
        check_fits([RUNGS["15m"]])


def test_cost_grows_with_everything() -> None:
    least = cost_of([RUNGS["15m"]], 1, 2)

    assert cost_of([RUNGS["15m"], RUNGS["135m"]], 1, 2).seconds > least.seconds
    assert cost_of([RUNGS["15m"]], 2, 2).seconds == pytest.approx(2 * least.seconds)
    assert cost_of([RUNGS["15m"]], 1, 20).seconds > least.seconds
    assert cost_of([RUNGS["135m"]], 1, 2).memory_bytes > least.memory_bytes


def absent(name: str) -> Failure | None:
    return None if name == "llamacpp" else Failure("failed", f"{name}: not installed; pip install 'slmquant[{name}]'")


def test_engines_that_are_absent_are_told_with_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climbing, "absence", absent)
    usable, told = usable_engines()

    assert usable == ["llamacpp"]
    assert "openvino: not installed; pip install 'slmquant[openvino]'" in told
    assert not any("torch" in one for one in told)
    with pytest.raises(UnavailableError, match="pip install"):
        usable_engines(["openvino"])


def test_engines_without_speed_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climbing, "absence", lambda name: None)
    usable, _ = usable_engines()

    assert {"llamacpp", "onnxruntime", "openvino", "vllm"} <= set(usable) < set(engines.names())
    for name in ("torch_eager", "transformers"):
        with pytest.raises(RefusedError, match=f"{name}: no speed"):
            usable_engines([name])
    with pytest.raises(UnknownNameError, match="llamacpp"):
        usable_engines(["lamacpp"])


def test_without_an_engine_there_is_no_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climbing, "absence", lambda name: Failure("failed", f"{name} is not here"))

    with pytest.raises(UnavailableError, match="llamacpp is not here"):
        usable_engines()


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ladder", *words], env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_tells_the_cost_first_and_shows_the_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Bench(monkeypatch)
    monkeypatch.setattr(climbing, "absence", absent)
    store = tmp_path / "ladder.sqlite"
    code, output = run("--sizes", "15m,42m,135m", "--store", str(store), "--rounds", "4")

    assert code == 0
    assert output.index("openvino: not installed") < output.index("9 cells: 15m (stories15M)") < output.index("1/9")
    assert "on one core, up to" in output and "llamacpp: what no bit width saves" in output
    assert run(str(store))[1] in output


def test_wrong_words_end_before_a_store_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(climbing, "absence", absent)
    store = tmp_path / "ladder.sqlite"
    for words, error in (
        (("--sizes", "16m"), UnknownNameError),
        (("--engines", "openvino"), UnavailableError),
        (("--engines", "torch_bf16"), RefusedError),
    ):
        with pytest.raises(error):
            run(*words, "--store", str(store))

    assert not store.exists()


@pytest.mark.engine
@pytest.mark.parametrize("name", ["gguf", "onnx", "openvino"])
def test_every_weight_has_the_width_in_every_format(name: str, tmp_path: Path) -> None:
    written = write_files(FilesJob(TINY, name, tmp_path), Silent())
    sizes = []
    for file in written.values():
        assert isinstance(file, RandomFile), file
        assert file.path.exists()
        sizes.append(8 * file.weight_bytes / TINY.parameters)

    assert sizes == pytest.approx(list(WIDTHS.values()), rel=0.2)


@pytest.mark.engine
def test_a_ladder_is_timed_in_a_real_engine(tmp_path: Path) -> None:
    with Store(tmp_path / "ladder.sqlite") as store:
        records = climb(Climb((TINY,), ("llamacpp",), 2), store, Silent(), ignore)
        (one,) = ladder(store.records(), store.items).engines

    assert [record.status for record in records] == ["ok", "ok", "ok"]
    assert [file.bits for file in one.files] == [16, 8, 4]
    assert all(len(file.decode_s) == 2 for file in one.files) and len(one.gains) == 6
