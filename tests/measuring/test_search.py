"""The search: it finds the planted best within its minutes, and says what it left out; a real one ends in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slmquant.analysis.estimates import Costs
from slmquant.machine.process import Failure
from slmquant.measuring.search import Search
from slmquant.recommendation.advise import advise
from slmquant.recommendation.answer import Answer
from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import Evidence, gather
from slmquant.recommendation.prior import Prior
from slmquant.recommendation.question import Question, ask
from slmquant.recommendation.schedule import Schedule, Sizing
from slmquant.recommendation.space import Proposal
from slmquant.store.record import CalibrationSpec, TaskSpec
from tests.recommendation import simulated
from tests.recommendation.simulated import Cell, cell, divergences, on_engine, reference

BYTES = {"W8A16": 150_000_000, "W4A16g64": 90_000_000, "W3A16g64": 70_000_000}
TRUE = {"rtn": 4.0, "awq": 2.0, "gptq_mse": 1.0, "hqq": 1.01}
"""Method → divergence relative to the best."""
KEPT = {"rtn": 0.4, "awq": 0.5, "gptq_mse": 0.6, "hqq": 0.6}
"""Method → accuracy; full precision has 0.6."""
SCALE = {"W8A16": 0.01, "W4A16g64": 0.1, "W3A16g64": 0.5}


@dataclass
class Made:
    """Measures invented candidates; each takes a minute, and longer on more windows."""

    now: float = 0.0
    cells: list[Cell] = field(default_factory=lambda: [reference()])
    asked: list[tuple[str, int]] = field(default_factory=list)
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    dtype: str = "bfloat16"
    data_dir: Path | None = None
    engine: str | None = None

    def candidate(self, proposal: Proposal, left_s: float) -> Candidate | Failure:
        if proposal.scheme is None:
            return Failure("timeout", f"exceeded its limit of {left_s:.0f} s")
        return Candidate(method=proposal.method, scheme=proposal.scheme, calibration=self.calibration)

    def measure(
        self, candidates: Sequence[Candidate], asked: Sequence[TaskSpec], left_s: float, engine: str | None = None
    ) -> None:
        for one in candidates:
            windows = asked[0].limit or 0
            kl = divergences(TRUE[one.method] * SCALE[one.scheme], windows)
            size, first = BYTES[one.scheme], 1000 * windows
            right = simulated.answers(KEPT[one.method]) if len(asked) > 1 else None
            made = cell(
                one.method, one.scheme, kl, size, task=f"wikitext2:{windows}", first=first, calibrated=True, right=right
            )
            self.cells.append(made)
            if engine is not None:
                self.cells.append(on_engine(made, engine, size, 1e9 / size, 2 * size))
            self.asked.append((one.label, windows if right is None else -windows))
            self.now += 60 + 5 * windows

    def known(self) -> Evidence:
        answers = {record.cell_id: items for record, items in self.cells}
        found = gather([record for record, _ in self.cells], answers, simulated.MODEL, self.engine)
        return found.sized(BYTES) if self.engine is not None else found


def searched(question: Question, made: Made, minutes: float, proposals: Sequence[Proposal]) -> tuple[Answer, Schedule]:
    schedule = Schedule(question, Sizing(BYTES, {}, 134_515_008), Prior())
    search = Search(
        question, schedule, made, [TaskSpec(name="wikitext2", limit=4)], made.known, Costs([]), lambda _: None,
        60 * minutes, lambda: made.now,
    )  # fmt: skip
    return advise(question, search.run(proposals), tuple(schedule.left_out.values())), schedule


def everything() -> list[Proposal]:
    return [Proposal(method, scheme) for scheme in BYTES for method in TRUE]


def test_the_planted_best_is_found_and_those_nearly_as_good_get_more_windows() -> None:
    made = Made()

    answer, schedule = searched(ask(simulated.MODEL, max_bytes="100MB"), made, 60, everything())

    assert {one.candidate.label for one in answer.options[:2]} == {"gptq_mse/W4A16g64", "hqq/W4A16g64"}
    assert made.asked[0] == ("rtn/W4A16g64", 4)  # seconds to make, so there is an answer in any case
    assert [label for label, windows in made.asked if windows > 4]
    assert all(not label.startswith("rtn") for label, windows in made.asked if windows > 4)
    assert schedule.left_out["rtn/W8A16"].by == "--max-bytes at most 100 MB"


def test_what_three_bits_cannot_reach_is_not_measured() -> None:
    made = Made()

    answer, _ = searched(ask(simulated.MODEL, max_bytes="100MB"), made, 60, everything())

    assert ("rtn/W3A16g64", 4) not in made.asked
    assert "prediction" in {ruled.by for ruled in answer.ruled_out}


def test_minutes_are_kept_and_what_they_did_not_allow_is_said() -> None:
    made = Made()

    answer, _ = searched(ask(simulated.MODEL, max_bytes="100MB"), made, 2, everything())

    assert answer.options
    assert made.now <= 2 * 60 + 80  # the last one began in time
    assert "--minutes" in {ruled.by for ruled in answer.ruled_out}


def test_a_candidate_that_cannot_be_made_is_said() -> None:
    made = Made()
    wanted = [Proposal("slmq", None, 100_000_000), *everything()]

    answer, _ = searched(ask(simulated.MODEL, max_bytes="100MB"), made, 60, wanted)

    problem = next(ruled for ruled in answer.ruled_out if ruled.label == "slmq/types for 100000000 bytes")
    assert problem.by == "--minutes"
    assert problem.reason.startswith("exceeded its limit")


def test_accuracy_is_measured_of_the_smallest_until_one_keeps_it() -> None:
    made = Made(cells=[reference(accuracy=0.6)])

    answer, _ = searched(ask(simulated.MODEL, keep="95%", minutes=60), made, 60, everything())

    assert answer.options[0].candidate.label in {"gptq_mse/W4A16g64", "hqq/W4A16g64"}
    on_tasks = [label for label, windows in made.asked if windows < 0]
    assert on_tasks[-1] == answer.options[0].candidate.label
    assert {ruled.by for ruled in answer.ruled_out} >= {"--keep at least 95%"} or len(on_tasks) == 1


def test_speed_is_measured_of_the_best_until_one_has_it() -> None:
    made = Made(engine="llamacpp")
    question = ask(simulated.MODEL, max_bytes="160MB", min_tokens_per_second=10, engine="llamacpp", minutes=60)

    answer, _ = searched(question, made, 60, everything())

    assert answer.options[0].candidate.scheme == "W4A16g64"
    assert answer.options[0].tokens_per_second == pytest.approx(1e9 / 90e6, rel=1e-4)
    slow = {ruled.label for ruled in answer.ruled_out if ruled.by.startswith("--min-tokens-per-second")}
    assert slow and all(label.endswith("W8A16") for label in slow)


def test_nothing_is_measured_twice() -> None:
    made = Made()
    question = ask(simulated.MODEL, max_bytes="100MB")

    searched(question, made, 60, everything())
    before = list(made.asked)
    made.now = 0
    searched(question, made, 60, everything())

    assert len(made.asked) == len(set(made.asked)) == len(before)


@pytest.mark.usefixtures("at_once")
def test_a_model_is_searched_and_the_answer_kept(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model of two layers, without an engine: its cells and the answer are in the store, and come again."""
    from slmquant.cli._app import run
    from slmquant.formats.native.folder import is_native
    from slmquant.store import Store

    store = tmp_path / "results.sqlite"
    words = [
        "recommend", str(model), "--max-bytes", "60kB", "--minutes", "1", "--store", str(store), "--data", str(data),
        "--quiet",
    ]  # fmt: skip

    assert run(words) == 0
    with Store(store, read_only=True) as opened:
        cells, (kept,) = opened.count(), opened.answers()
    assert run(words) == 0
    with Store(store, read_only=True) as opened:
        assert opened.count() == cells
        assert opened.answers() == [kept]
    answer = Answer.model_validate_json(kept.content)
    assert answer.options[0].size_bytes is not None and answer.options[0].size_bytes <= 60_000
    target = tmp_path / "made"
    assert run([*words, "--apply", "-o", str(target)]) == 0
    assert is_native(target)
    assert run([*words, "--apply", "-o", str(data)]) == 2  # a folder of other things stays
    assert run([*words, "-o", str(tmp_path / "other")]) == 2
    monkeypatch.chdir(tmp_path)
    assert run([*words, "--apply"]) == 0
    assert is_native(tmp_path / "model-quantized")
