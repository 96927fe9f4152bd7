"""`slmquant chat` lets a quantized model answer beside its original, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer import Typer
from typer.testing import CliRunner, Result

from slmquant import api
from slmquant.cli import chat
from slmquant.cli._conversation import Manner, Speaker
from slmquant.errors import NumericalError, RefusedError, UnknownNameError
from slmquant.model.sources.load import load
from slmquant.model.sources.read_llama2c import read_llama2c
from tests import tiny_llama2c

TEMPLATE = (
    "{% for message in messages %}{{ message.role[:1] }}{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}b{% endif %}"
)

app = Typer()
app.command("chat")(chat.command)


def run(*words: str, said: str = "") -> Result:
    return CliRunner().invoke(app, words, input=said, env={"COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny random llama of 64 tokens of context."""
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)
    (tmp_path / "files").mkdir()
    model, tokenizer = read_llama2c(*tiny_llama2c.write(tmp_path / "files"))
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def artifact(folder: Path, tmp_path: Path) -> Path:
    return api.quantize(str(folder), "rtn", "W4A16g8", dtype="float32").save(tmp_path / "quantized")


def test_an_artifact_answers_beside_its_original(artifact: Path, folder: Path) -> None:
    result = run(str(artifact), "--prompt", "ab", "--max-tokens", "5", "--quiet")
    assert result.exit_code == 0
    assert f"{folder}/rtn/W4A16g8" in result.stdout and f"{folder}, original" in result.stdout
    assert f"{folder}, original" not in run(str(artifact), "-p", "ab", "--max-tokens", "5", "--no-original").stdout


def test_every_line_of_a_pipe_is_answered(artifact: Path, folder: Path) -> None:
    result = run(str(artifact), "--max-tokens", "3", said="ab\n\nbc\n")
    assert result.exit_code == 0
    assert result.stdout.count(f"{folder}/rtn/W4A16g8") == 2 == result.stdout.count(f"{folder}, original")


def test_what_is_too_long_does_not_end_a_conversation(folder: Path) -> None:
    result = run(str(folder), "--max-tokens", "3", said=f"{'cb ' * 200}\nab\n")

    assert result.exit_code == 0
    assert "start over with /new" in result.stderr and f"{folder}" in result.stdout
    assert isinstance(run(str(folder), "-p", "cb " * 200, "--max-tokens", "3").exception, RefusedError)


def test_a_plain_model_answers_alone(folder: Path) -> None:
    result = run(str(folder), "-p", "ab", "--max-tokens", "3")
    assert result.exit_code == 0 and result.stdout.count(str(folder)) == 1


def test_a_model_is_quantized_on_the_fly(folder: Path) -> None:
    result = run(str(folder), "--scheme", "W8A16", "-p", "ab", "--max-tokens", "3", "-q")
    assert f"{folder}/rtn/W8A16" in result.stdout and f"{folder}, original" in result.stdout


def test_an_original_that_is_gone_is_told(artifact: Path, folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    result = run(str(artifact), "-p", "ab", "--max-tokens", "3")
    assert result.exit_code == 0
    assert "the original is not shown: there is no folder" in result.stderr and "rtn/W4A16g8" in result.stdout


def test_an_original_that_has_changed_is_told(artifact: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    model.save_pretrained(folder)
    result = run(str(artifact), "-p", "ab", "--max-tokens", "3")
    assert "have changed since it was quantized" in result.stderr


def test_bad_input_is_answered_in_a_line(artifact: Path, folder: Path) -> None:
    assert isinstance(run("smolm", "-p", "ab").exception, UnknownNameError)
    assert "is quantized already" in run(str(artifact), "--method", "rtn", "-p", "ab").stderr
    assert isinstance(run(str(folder), "-p", "ab", "--max-tokens", "64").exception, RefusedError)
    assert run(str(folder), "-p", "ab", "--temperature", "-1").exit_code == 2


def test_an_artifact_keeps_how_its_original_writes(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.repetition_penalty = 1.3
    model.generation_config.eos_token_id = [2, 7]
    model.generation_config.save_pretrained(folder)
    saved = api.quantize(str(folder), "rtn", "W8A16", dtype="float32").save(tmp_path / "kept")
    kept = api.open_artifact(saved).quantized.model.generation_config
    assert (kept.repetition_penalty, kept.eos_token_id) == (1.3, [2, 7])


@pytest.fixture
def speaker(folder: Path) -> Callable[[str | None], Speaker]:
    def build(template: str | None = None) -> Speaker:
        loaded = load(str(folder))
        loaded.tokenizer.chat_template = template
        return Speaker("tiny", loaded.model, loaded.tokenizer)

    return build


def test_pieces_are_the_answer(speaker: Callable[..., Speaker]) -> None:
    pieces: list[str] = []
    answer = speaker().answer("ab", Manner(max_tokens=12), pieces.append)
    assert "".join(pieces).strip() == answer.strip() and answer.strip()


def test_a_conversation_is_remembered_until_a_new_one_begins(
    speaker: Callable[..., Speaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    talker, manner = speaker(TEMPLATE), Manner(max_tokens=4)
    heard: list[int] = []
    tokens = talker._tokens

    def listening(said: list[dict[str, str]]) -> list[int]:
        heard.append(len(said))
        return tokens(said)

    monkeypatch.setattr(talker, "_tokens", listening)
    first = talker.answer("a", manner, lambda _: None)
    talker.answer("b", manner, lambda _: None)
    talker.forget()
    assert talker.answer("a", manner, lambda _: None) == first
    assert heard == [1, 3, 1]


def test_without_a_template_every_text_stands_alone(speaker: Callable[..., Speaker]) -> None:
    talker, manner = speaker(), Manner(max_tokens=6)
    first = talker.answer("abc", manner, lambda _: None)
    talker.answer("b", manner, lambda _: None)
    assert not talker.is_chat and talker.answer("abc", manner, lambda _: None) == first


def test_nobody_answers_where_one_has_no_room(
    speaker: Callable[..., Speaker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the two conversations would go on from different ones."""
    roomy, full = speaker(TEMPLATE), speaker(TEMPLATE)
    full._said = [{"role": "user", "content": "a" * 500}]
    monkeypatch.setattr(chat, "_speakers", lambda *_: [roomy, full])
    monkeypatch.setattr(chat, "_said", lambda *_: iter(["a"]))
    result = run("tiny")

    assert result.exit_code == 0 and "start over with /new" in result.stderr
    assert roomy._said == [] and len(full._said) == 1


def test_what_is_drawn_follows_the_seed(speaker: Callable[..., Speaker]) -> None:
    talker = speaker()

    def draw(seed: int) -> str:
        return talker.answer("ab", Manner(max_tokens=10, temperature=2.0, seed=seed), lambda _: None)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_overflowing_weights_are_an_error(speaker: Callable[..., Speaker]) -> None:
    talker = speaker()
    with torch.no_grad():
        talker.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="'tiny' are not finite"):
        talker.answer("ab", Manner(max_tokens=3), lambda _: None)
