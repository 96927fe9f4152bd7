"""Cells are asked until they are told apart; what was asked before a kill is not asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slmquant.errors import PlanError
from slmquant.machine.process import FREE, Failure, Isolation
from slmquant.places import Places
from slmquant.progress import Progress, Silent
from slmquant.runs.early_stopping import loop
from slmquant.runs.early_stopping.loop import Separation
from slmquant.runs.early_stopping.round_job import RoundJob, RoundResult
from slmquant.runs.early_stopping.tally import Tally
from slmquant.runs.plan import make_plan
from slmquant.runs.work import CellJob, CellResult
from slmquant.store import Store
from slmquant.store.record import CellSpec, DataCard, ItemOutcome, Metric, ModelCard, Phase, TaskSpec
from slmquant.tasks.common.contract import TaskResult
from tests import invented

PIQA = TaskSpec(name="piqa", order_seed=0, until_separated=0.95)
ROWS = 400
CARD = DataCard(name="piqa", split="validation", rows=ROWS, sha256="0" * 64, licence="?", source="folder")
SHARE_RIGHT = {"none": 1.0, "rtn": 0.99, "gptq": 0.1}
"""INVENTED: how many of every hundred items each method answers rightly."""


def cell(method: str) -> CellSpec:
    scheme = "W16A16" if method == "none" else "W8A8"
    return CellSpec(model="m", model_sha256="0" * 64, method=method, scheme=scheme, tasks=(PIQA,))


def chunk(method: str, start: int, stop: int) -> TaskResult:
    label = str(PIQA)
    values = [float(item % 100 < 100 * SHARE_RIGHT[method]) for item in range(start, min(stop, ROWS))]
    return TaskResult(
        metrics=(
            Metric(name="acc", value=0.0, unit="ratio", higher_is_better=True, task=label, protocol="p"),
            Metric(name="chance", value=0.5, unit="ratio", higher_is_better=None, task=label, protocol="p"),
        ),
        data=(CARD,),
        items=tuple(
            ItemOutcome(task=label, item=str(start + place), values={"acc": value})
            for place, value in enumerate(values)
        ),
    )


class Workers:
    """Stands for the processes: quantizes nothing, answers by `SHARE_RIGHT`, and may be killed."""

    def __init__(self, killed_at: int | None = None, failing: str | None = None, damaged_at: int | None = None) -> None:
        self.quantized: list[str] = []
        self.asked: list[tuple[str, int, int]] = []
        self.killed_at, self.failing, self.damaged_at = killed_at, failing, damaged_at

    def __call__(self, function: object, job: CellJob | RoundJob, progress: Progress, isolation: Isolation) -> object:
        del function, progress, isolation
        if isinstance(job, CellJob):
            self.quantized.append(job.spec.method)
            seconds = Metric(name="evaluate_s", value=2.0, unit="s", higher_is_better=None)
            phases = (Phase(name="quantize", seconds=1.0), Phase(name="evaluate", seconds=2.0, peak_rss_bytes=5))
            model = ModelCard(architecture="llama", parameters=1, embedding_share=0.5, provenance="original")
            return CellResult((seconds,), phases, (), (), model)
        if len(self.asked) == self.killed_at:
            raise KeyboardInterrupt
        if job.spec.method == self.failing:
            return Failure("timeout", "too slow")
        if len(self.asked) == self.damaged_at:
            self.damaged_at = None
            return Failure("failed", "the model was damaged", again=True)
        (asked,) = job.asked
        self.asked.append((job.spec.method, asked.start, asked.stop))
        phase = Phase(name="evaluate", seconds=10.0, peak_rss_bytes=7)
        return RoundResult((chunk(job.spec.method, asked.start, asked.stop),), phase)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "results.sqlite") as opened:
        yield opened


def race(store: Store, workers: Workers, monkeypatch: pytest.MonkeyPatch, said: list[str] | None = None) -> Separation:
    monkeypatch.setattr(loop, "run_isolated", workers)

    def measure(spec: CellSpec, keep_in: Path | None) -> CellResult | Failure:
        return workers(None, CellJob(spec, None, places, keep_in), Silent(), FREE)  # type: ignore[return-value]

    places = Places(None, Path())
    said = [] if said is None else said
    return Separation(store, measure, places, Silent(), said.append, lambda spec: FREE)


def run_all(separation: Separation, *method_names: str) -> dict[str, CellResult | Failure]:
    for method in method_names:
        assert separation.enter(cell(method)) is None
    return {ended.spec.method: ended.result for ended in separation.run()}


def test_a_cell_that_stands_out_is_asked_less_and_figures_are_over_what_was_asked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    workers = Workers()
    results = run_all(race(store, workers, monkeypatch, said), "none", "rtn", "gptq")

    assert [(start, stop) for method, start, stop in workers.asked if method == "rtn"][-1] == (200, ROWS)
    worst = results["gptq"]
    assert isinstance(worst, CellResult)
    figures = {metric.name: metric for metric in worst.metrics}
    assert figures["acc"].n == len(worst.items) == 50
    assert figures["acc"].value == pytest.approx(0.2)  # 10 of the first 50
    assert figures["acc"].stderr == pytest.approx((0.2 * 0.8 / 49) ** 0.5)
    assert figures["items_saved"].value == ROWS - 50
    assert figures["chance"].value == 0.5
    assert figures["evaluate_s"].value == worst.phases[1].seconds == 12.0
    assert worst.phases[1].peak_rss_bytes == 7
    assert said == [f"{PIQA}: 850 of 1200 answers evaluated, 29% saved; not told apart: none W16A16, rtn W8A8"]


def test_what_was_asked_before_a_kill_is_not_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_all(race(store, Workers(), monkeypatch), "none", "rtn", "gptq")
    killed = Workers(killed_at=4)
    with pytest.raises(KeyboardInterrupt):
        run_all(race(store, killed, monkeypatch), "none", "rtn", "gptq")
    after = Workers()
    resumed = run_all(race(store, after, monkeypatch), "none", "rtn", "gptq")

    assert resumed == whole
    assert after.quantized == [] and not set(after.asked) & set(killed.asked)
    assert not list(store.path.parent.glob("*.rounds"))


def test_a_cell_that_fails_leaves_the_others_in_peace(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_all(race(store, Workers(failing="gptq"), monkeypatch), "none", "rtn", "gptq")

    assert results["gptq"] == Failure("timeout", "too slow")
    assert isinstance(results["rtn"], CellResult) and isinstance(results["none"], CellResult)


def test_a_cell_alone_still_gets_a_figure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = run_all(race(store, Workers(), monkeypatch), "rtn").values()

    assert isinstance(result, CellResult) and len(result.items) == 50


def test_finished_cells_take_part_and_are_asked_more_only_where_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = invented.record("rtn", "W8A8", cell=cell("rtn")).model_copy(update={"data": (CARD,)})
    old = replace(chunk("rtn", 0, 50))
    store.put(record.model_copy(update={"metrics": old.metrics}), old.items)

    clear, close = Workers(), Workers()
    separation = race(store, clear, monkeypatch)
    separation.enter_finished(store.get(record.cell_id))
    assert set(run_all(separation, "gptq")) == {"gptq"}
    separation = race(store, close, monkeypatch)
    separation.enter_finished(store.get(record.cell_id))
    results = run_all(separation, "none")

    assert clear.quantized == ["gptq"] and all(method == "gptq" for method, _, _ in clear.asked)
    assert close.quantized == ["none", "rtn"]
    again = results["rtn"]
    assert isinstance(again, CellResult)
    assert [item.item for item in again.items] == [str(index) for index in range(ROWS)]


def test_a_stored_row_survives_what_fails_when_more_is_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = invented.record("rtn", "W8A8", cell=cell("rtn")).model_copy(update={"data": (CARD,)})
    old = chunk("rtn", 0, 50)
    store.put(record.model_copy(update={"metrics": old.metrics}), old.items)
    said: list[str] = []
    separation = race(store, Workers(failing="rtn"), monkeypatch, said)
    separation.enter_finished(store.get(record.cell_id))

    assert set(run_all(separation, "none")) == {"none"}
    assert said[0] == "m/rtn/W8A8 keeps its stored row and stops here: too slow"


def test_a_cell_that_failed_goes_on_from_its_last_round(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(race(store, Workers(failing="gptq"), monkeypatch), "gptq")
    again = Workers()
    results = run_all(race(store, again, monkeypatch), "gptq")

    assert again.quantized == [] and isinstance(results["gptq"], CellResult)


def test_what_an_interrupted_run_left_unreadable_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_all(race(store, Workers(killed_at=1), monkeypatch), "none", "rtn")
    left = list(store.path.parent.glob("*.rounds/*/*/content.json"))
    for file in left:
        file.write_text("{}")
    again = Workers()
    run_all(race(store, again, monkeypatch), "none", "rtn")

    assert len(left) == 3 and again.quantized == ["none", "rtn"]


def test_a_cell_whose_saved_model_was_damaged_is_quantized_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_all(race(store, Workers(), monkeypatch), "none", "rtn")
    said: list[str] = []
    workers = Workers(damaged_at=1)
    results = run_all(race(store, workers, monkeypatch, said), "none", "rtn")

    assert results == whole and len(workers.quantized) == 3
    assert any("trying again, because the model was damaged" in line for line in said)


def test_a_limit_smaller_than_a_round_is_kept() -> None:
    tally = Tally(TaskSpec(name="piqa", limit=30, order_seed=0, until_separated=0.9))

    assert tally.available == 30 and tally.answers is None and tally.metrics() == ()


def test_a_plan_stops_tasks_with_items_early_and_texts_never() -> None:
    fields = {"models": ["m"], "methods": ["rtn"], "schemes": ["W8A8"], "tasks": ["piqa:200", "wikitext2:2"]}
    plan = make_plan({**fields, "until_separated": 0.9, "seed": 3})

    assert [str(task) for task in plan.asked] == ["piqa:200@3~0.9", "wikitext2:2"]
    assert plan.cells("m", "0", "float32")[0].tasks == plan.asked
    assert make_plan(fields).asked == make_plan(fields).tasks
    with pytest.raises(PlanError, match="until_separated"):
        make_plan({**fields, "until_separated": 95})
