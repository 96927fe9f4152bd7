"""Tasks of a cell that was stopped are not asked again, and come out as if it had not been."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from slmquant import tasks
from slmquant.cache.entries import CONTENT
from slmquant.errors import NumericalError, RefusedError
from slmquant.model.computing.modes import FLOAT32
from slmquant.places import Places
from slmquant.store.record import CellSpec, DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.testing.tiny import tiny
from slmquant.tracks import task_checkpoints
from slmquant.tracks.compression import evaluate
from slmquant.tracks.task_checkpoints import TaskCheckpoints

SPECS = [TaskSpec(name="first", limit=3), TaskSpec(name="second")]

CARD = DataCard(name="made up", split="test", sha256="0" * 64, rows=3, source="here", licence="none")


class Asking:
    """Tasks that count how often they are asked; those that are `broken` or `refused` raise."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.refused: set[str] = set()

    def __call__(self, spec: TaskSpec) -> "Asking":
        return self

    def run(self, context: EvalContext, spec: TaskSpec) -> TaskResult:
        self.asked.append(spec.name)
        if spec.name in self.refused:
            raise RefusedError("the model takes less")
        if spec.name in self.broken:
            raise NumericalError("a loss is nan")
        metric = Metric(name="acc", value=0.1 + 0.2, unit="ratio", higher_is_better=True, task=str(spec), n=3)
        item = ItemOutcome(task=str(spec), item="7", values={"acc": 1.0})
        return TaskResult((metric,), (CARD,), (item,))


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    found = Asking()
    monkeypatch.setattr(tasks, "resolve", found)
    monkeypatch.setattr(tasks, "has_reference", lambda _context, spec: spec.name != "first")
    return found


def context(tmp_path: Path, is_reference: bool = False) -> EvalContext:
    model = tiny("llama")
    return EvalContext(model, FLOAT32, PreTrainedTokenizerBase(), "0", tmp_path, is_reference=is_reference)


def test_a_stopped_cell_goes_on_with_the_task_that_was_in_flight(tmp_path: Path, asking: Asking) -> None:
    whole = evaluate(context(tmp_path), SPECS)
    checkpoints = TaskCheckpoints("cell", tmp_path / "answered" / "cell")
    asking.asked, asking.broken = [], {"second"}
    with pytest.raises(NumericalError):
        evaluate(context(tmp_path), SPECS, checkpoints)
    asking.broken = set()
    found = evaluate(context(tmp_path), SPECS, checkpoints)

    assert asking.asked == ["first", "second", "second"]
    assert (found.metrics, found.items, found.data) == (whole.metrics, whole.items, whole.data)
    assert found.before == (SPECS[0],)
    assert found.before_s > 0
    assert found.before_peak_rss_bytes > 0
    assert whole.before == ()


def test_the_reference_is_asked_again_where_what_it_left_behind_is_gone(tmp_path: Path, asking: Asking) -> None:
    checkpoints = TaskCheckpoints("cell", tmp_path / "answered" / "cell")
    evaluate(context(tmp_path), SPECS, checkpoints)
    found = evaluate(context(tmp_path, is_reference=True), SPECS, checkpoints)

    assert asking.asked == ["first", "second", "first"]
    assert found.before == (SPECS[1],)


def test_what_cannot_be_read_is_asked_again_and_what_is_forgotten_is_gone(tmp_path: Path, asking: Asking) -> None:
    checkpoints = TaskCheckpoints("cell", tmp_path / "answered" / "cell")
    evaluate(context(tmp_path), SPECS[:1], checkpoints)
    (entry,) = checkpoints.prefix.parent.iterdir()
    (entry / CONTENT).write_bytes((entry / CONTENT).read_bytes()[:40])

    assert checkpoints.find(SPECS[0]) is None
    evaluate(context(tmp_path), SPECS[:1], checkpoints)
    assert checkpoints.find(SPECS[0]) is not None
    checkpoints.forget()
    assert not list(checkpoints.prefix.parent.iterdir())


def test_cells_keep_their_answers_apart(tmp_path: Path) -> None:
    spec = CellSpec(model="m", model_sha256="0", method="rtn", scheme="W8A8", tasks=tuple(SPECS))

    mine = TaskCheckpoints.of(spec, Places(None, tmp_path))
    assert mine == TaskCheckpoints.of(spec.model_copy(), Places(None, tmp_path))
    assert mine != TaskCheckpoints.of(spec.model_copy(update={"seed": 1}), Places(None, tmp_path))
    assert mine != TaskCheckpoints.of(spec, Places(tmp_path / "other data", tmp_path))


def test_another_version_does_not_find_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = CellSpec(model="m", model_sha256="0", method="rtn", scheme="W8A8", tasks=tuple(SPECS))
    mine = TaskCheckpoints.of(spec, Places(None, tmp_path))
    monkeypatch.setattr(task_checkpoints, "__version__", "99")

    assert TaskCheckpoints.of(spec, Places(None, tmp_path)) != mine


def test_a_task_that_cannot_be_asked_costs_the_others_nothing(tmp_path: Path, asking: Asking) -> None:
    asking.refused = {"first"}
    found = evaluate(context(tmp_path), SPECS)

    assert [metric.task for metric in found.metrics] == ["second"]
    assert found.refused == ("first:3 was not asked: the model takes less",)
    with pytest.raises(RefusedError, match="takes less"):
        evaluate(context(tmp_path), SPECS[:1])
