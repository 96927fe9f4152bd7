"""The laboratory trains what is missing, measures it as ordinary models, and repeats itself bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from slmquant.cli._app import run
from slmquant.errors import DataError, NumericalError, SlmquantError
from slmquant.lab import laboratory
from slmquant.lab.arms import Arm, initial
from slmquant.lab.checks import make_lab_plan
from slmquant.lab.settings import Settings
from slmquant.lab.texts import TextJob, TrainingText, tokenized
from slmquant.lab.training import TrainingJob, fit_, learning_rate, train
from slmquant.machine.process import Failure, run_isolated
from slmquant.model.sources.load import load
from slmquant.model.sources.resolve import resolve
from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.runs import repeats
from slmquant.runs.executors import local
from tests.runs.conftest import here

SMALL = Settings(
    layers=1, hidden=16, heads=2, key_heads=2, intermediate=32, vocabulary=300, context=16, steps=6, batch=2, warmup=2
)
PLAN = {
    "base": SMALL.model_dump(),
    "factors": {"position": {"levels": {"nope": {"position": "nope"}}}},
    "seeds": [0, 1],
    "train": ["c4_train_a"],
    "tasks": ["wikitext2:4"],
    "methods": ["rtn"],
    "schemes": ["W4A16g16"],
    "calibration": {"corpus": "c4_train_a", "num_samples": 2, "seq_len": 16},
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Invented texts, and an empty cache."""
    text = tmp_path / "data" / "text"
    text.mkdir(parents=True)
    words = [f"the cat number {n} sat on mat {n * 37 % 101} and saw {n * n} birds" for n in range(300)]
    (text / "c4_train_a.jsonl").write_text("".join(json.dumps({"text": " ".join([line] * 3)}) + "\n" for line in words))
    (text / "wikitext2_test.txt").write_text("\n".join(f"a dog of {n * 7} years barks" for n in range(400)))
    (text / "wikitext2_train.txt").write_text(" ".join(["the cat number 5 sat on mat 84 and saw 25 birds"] * 3))
    monkeypatch.setenv("SLMQUANT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    return Places(tmp_path / "data", tmp_path / "cache")


@pytest.fixture
def text(places: Places) -> TrainingText:
    return tokenized(TextJob(("c4_train_a",), ("wikitext2_test",), 300, places), Silent())


def embedding(model: PreTrainedModel) -> torch.Tensor:
    weight: torch.Tensor = model.state_dict()["model.embed_tokens.weight"]
    return weight


def test_text_is_tokenized_once_and_reads_back(text: TrainingText, places: Places) -> None:
    tokenizer, tokens = text.read()

    assert tokenizer.vocab_size == 300
    assert str(tokenizer.decode(tokens[:20])).startswith("the cat number 0 sat")
    assert int((tokens == tokenizer.eos_token_id).sum()) == 300
    assert tokenized(TextJob(("c4_train_a",), (), 300, places), Silent()) == text


def test_documents_that_are_also_judged_on_are_refused(places: Places) -> None:
    with pytest.raises(DataError, match=r"1 of 1 documents of wikitext2_train, which is judged on, are also in the tr"):
        tokenized(TextJob(("c4_train_a",), ("wikitext2_train",), 300, places), Silent())


def test_a_vocabulary_that_the_text_does_not_give_is_refused(places: Places) -> None:
    with pytest.raises(DataError, match=r"gives .* tokens, not 60000; add corpora, or lower 'vocabulary'"):
        tokenized(TextJob(("c4_train_a",), (), 60_000, places), Silent())


def test_training_twice_gives_the_same_weights_which_load_by_name(text: TrainingText, tmp_path: Path) -> None:
    arm = Arm("position", "nope", 3, SMALL.model_copy(update={"position": "nope"}))
    job = TrainingJob(arm, text, tmp_path / "cache")
    again = replace(job, cache_dir=tmp_path / "again")
    train(job, Silent())
    train(again, Silent())
    folders = [one.entry / one.name / "model.safetensors" for one in (job, again)]

    assert folders[0].read_bytes() == folders[1].read_bytes()
    assert job.name.startswith("lab-position-nope-3-")
    assert resolve(job.name) == job.entry / job.name
    loaded = load(job.name)
    assert loaded.card.architecture == "smollm3"
    assert loaded.card.provenance == "trained by the laboratory on 192 tokens: position nope, seed 3"
    assert not torch.equal(load_file(folders[0])["model.embed_tokens.weight"], embedding(initial(arm.settings, 3)))


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"level": "other"}, {"settings": SMALL.model_copy(update={"steps": 7})}],
    ids=["seed", "level", "settings"],
)
def test_everything_that_decides_a_model_is_in_its_key(
    text: TrainingText, tmp_path: Path, change: dict[str, object]
) -> None:
    job = TrainingJob(Arm("base", "base", 3, SMALL), text, tmp_path)
    other = replace(job, arm=Arm(**{**vars(job.arm), **change}))

    assert job.entry != other.entry


def test_a_shorter_training_at_a_constant_rate_is_a_checkpoint_of_the_longer(text: TrainingText) -> None:
    _, tokens = text.read()
    constant = SMALL.model_copy(update={"schedule": "constant"})
    models = [initial(constant, 0) for _ in range(2)]
    seen: list[torch.Tensor] = []

    class _Watch(Silent):
        def advance(self, steps: int = 1) -> None:
            seen.append(embedding(models[0]).clone())

    fit_(models[0], constant, tokens, 0, _Watch())
    fit_(models[1], constant.model_copy(update={"steps": 4}), tokens, 0, Silent())

    assert torch.equal(seen[3], embedding(models[1]))
    assert not torch.equal(seen[3], seen[5])


def test_the_loss_falls(text: TrainingText) -> None:
    _, tokens = text.read()
    settings = SMALL.model_copy(update={"steps": 60})
    model = initial(settings, 0)
    windows = tokens[:160].view(10, 16)
    before = float(model(windows, labels=windows).loss.detach())
    fit_(model, settings, tokens, 0, Silent())

    assert float(model(windows, labels=windows).loss.detach()) < before - 1


def test_the_rate_rises_then_stays_or_cools_to_a_tenth() -> None:
    cosine = SMALL.model_copy(update={"steps": 102, "warmup": 2, "learning_rate": 1.0})
    constant = cosine.model_copy(update={"schedule": "constant"})

    assert [learning_rate(cosine, step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert learning_rate(cosine, 52) == pytest.approx(0.55)
    assert learning_rate(cosine, 102) == pytest.approx(0.1)
    assert learning_rate(constant, 101) == 1.0


def test_a_training_that_diverges_says_so(text: TrainingText) -> None:
    _, tokens = text.read()
    model = initial(SMALL, 0)
    with torch.no_grad():
        embedding(model).fill_(float("inf"))

    with pytest.raises(NumericalError, match="the training loss is nan at step 0; lower 'learning_rate'"):
        fit_(model, SMALL, tokens, 0, Silent())


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(DataError, match="the training text has 16 tokens; expected more than a window, 16"):
        fit_(initial(SMALL, 0), SMALL, torch.zeros(16, dtype=torch.long), 0, Silent())


@pytest.mark.usefixtures("known_relations")
def test_a_plan_is_trained_measured_and_not_repeated(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (local, repeats):  # models are trained in processes of their own, and measured in this one
        monkeypatch.setattr(module, "run_isolated", here)
    monkeypatch.setattr(repeats, "SHORT_CPU_S", 0.0)
    plan, store = tmp_path / "lab.yaml", tmp_path / "lab.sqlite"
    plan.write_text(json.dumps(PLAN))

    assert run(["lab", str(plan), "--store", str(store)]) == 0
    first = capsys.readouterr()
    assert "6/6 trained lab-position-nope-1-" in first.err
    assert "another_start" in first.out
    assert run(["lab", str(plan), "--store", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["factor"], one["level"]) for one in found["effects"]] == [
        ("placebo", "another_start"),
        ("position", "nope"),
    ]
    assert found["effects"][1]["divergence"]["n"] == 2
    assert run(["lab", str(store)]) == 0
    shown = capsys.readouterr()
    assert shown.out == first.out
    assert str(tmp_path) not in shown.out + first.err
    assert run(["lab", str(plan), "--store", str(store)]) == 0
    again = capsys.readouterr()
    assert "6 of 6 models were trained before" in again.err
    assert "6/6 trained" not in again.err


def test_a_plan_without_its_text_ends_before_training(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del places
    plan = tmp_path / "lab.yaml"
    plan.write_text(json.dumps(PLAN | {"train": ["c4_train_b"]}))

    assert run(["lab", str(plan), "--store", str(tmp_path / "lab.sqlite")]) == DataError.exit_code
    assert "corpus 'c4_train_b' not found" in capsys.readouterr().err


def test_a_device_that_is_not_here_is_refused_before_training(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "lab.yaml"
    plan.write_text(json.dumps(PLAN | {"device": "cuda:99"}))

    assert run(["lab", str(plan), "--store", str(tmp_path / "lab.sqlite")]) == 3
    assert "cuda:99" in capsys.readouterr().err
    assert not (places.cache_dir / "training_text").exists()


def test_models_that_cannot_be_trained_end_the_plan_only_if_there_are_no_others(
    text: TrainingText, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    del text
    plan = make_lab_plan(PLAN)
    said: list[str] = []

    def fail(broken: str) -> None:
        def isolated(function: object, job: object, progress: object) -> object:
            if isinstance(job, TrainingJob) and broken in job.name:
                return Failure("failed", "the training loss is nan")
            return run_isolated(function, job, progress)  # type: ignore[arg-type]

        monkeypatch.setattr(laboratory, "run_isolated", isolated)

    fail("lab-")
    with pytest.raises(
        SlmquantError, match=r"none of 6 models could be trained; lab-base-.*: the training loss is nan"
    ):
        laboratory.train_models(plan, places, 1, Silent(), said.append)
    fail("nope")
    trained = laboratory.train_models(plan, places, 1, Silent(), said.append)
    assert [job.arm.level for job in trained.jobs] == ["base", "another_start"] * 2
    assert list(trained.failures.values()) == ["the training loss is nan"] * 2
    assert any("not trained (the training loss is nan): lab-position-nope-1-" in sentence for sentence in said)


def test_an_error_in_a_plan_is_told_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "lab.yaml"
    plan.write_text("factors:\n  tokens: {levels: {few: {stesp: 3}}}\nseeds: [0, 1]\ntrain: [c4_train_a]\n"
                    "tasks: [wikitext2]\nmethods: [rtn]\nschemes: [W8A8]\n")  # fmt: skip

    assert run(["lab", str(plan)]) == 2
    assert f"{plan}:2: field 'factors.tokens.levels.few': unknown setting 'stesp'" in capsys.readouterr().err
