"""`slmquant recommend`: the answer is printed, kept and shown again; nothing that fits is a refusal."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slmquant.cli._app import run
from slmquant.store import Store
from slmquant.store.jsonlines import write_cells
from slmquant.store.recommendations import KeptAnswer
from tests.recommendation import simulated

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "results.sqlite"
    monkeypatch.setenv("SLMQUANT_STORE", str(path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    with Store(path) as opened:
        for record, items in simulated.planted():
            opened.put(record, items)
    return path


def recommend(*words: str) -> int:
    """The exit code of an answer from records alone."""
    return run(["recommend", *words, *(() if "--show" in words else ("--minutes", "0"))])


@pytest.mark.usefixtures("store")
def test_the_answer_says_what_why_how_sure_and_what_is_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend(simulated.MODEL, "--max-bytes", "120MB") == 0

    out = capsys.readouterr().out
    assert "invented-135m: --max-bytes 120 MB; compared on 8 windows of wikitext2" in out
    assert "1: the least divergence of 5 that fit" in out
    assert "3 by --max-bytes at most 120 MB: gptq/W8A8, rtn/W8A8 (163 MB), none/W16A16 (269 MB)" in out
    assert "to make it: slmquant quantize invented-135m --method gptq --scheme W4A16g64" in out
    assert "tokens/s" not in out  # nothing is known of it


def test_the_same_question_gives_the_same_bytes_and_is_kept_once(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (simulated.MODEL, "--max-bytes", "120MB", "--json")
    printed = []
    for _ in range(2):
        assert recommend(*words) == 0
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1]
    with Store(store, read_only=True) as opened:
        (kept,) = opened.answers()
    assert kept.id == json.loads(printed[0])["id"]


@pytest.mark.usefixtures("store")
def test_earlier_answers_are_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend(simulated.MODEL, "--max-bytes", "120MB") == 0
    small = capsys.readouterr().out
    assert recommend(simulated.MODEL, "--max-divergence", "0.05") == 0
    close = capsys.readouterr().out

    assert recommend("--show") == 0
    assert capsys.readouterr().out == close
    assert recommend(simulated.MODEL, "--show") == 0
    assert capsys.readouterr().out == close
    assert recommend("--show", small.split()[-2]) == 0
    assert capsys.readouterr().out == small
    assert recommend("--show", "another") == 2
    assert "unknown recommendation 'another'" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_nothing_that_fits_ends_like_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend(simulated.MODEL, "--max-bytes", "95MB") == 3

    printed = capsys.readouterr()
    assert "nothing fits; gptq W3A16g64 comes closest" in printed.out
    assert "--max-bytes: it has 100 MB, and 95 MB is asked" in printed.out
    assert "without --max-bytes something would fit" in printed.out
    assert "nothing fits of what was measured" in printed.err


def test_published_cells_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = simulated.planted()
    write_cells([r for r, _ in cells], {r.cell_id: items for r, items in cells}, tmp_path / "cells.jsonl")
    words = ("--records", str(tmp_path / "cells.jsonl"), "--store", str(tmp_path / "new.sqlite"))

    assert recommend(simulated.MODEL, "--max-bytes", "120MB", *words) == 0
    assert "gptq" in capsys.readouterr().out


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("stories15m", "--max-bytes", "1MB"), 8, "no record of stories15m in"),
        ((simulated.MODEL,), 2, "nothing is asked of the model"),
        (("--max-bytes", "1MB"), 2, "name a model"),
        ((simulated.MODEL, "--max-bytes", "1MB", "--show"), 2, "takes no constraints"),
        ((simulated.MODEL, "--max-bytes", "95XB"), 2, "--max-bytes is '95XB'"),
        ((simulated.MODEL, "--max-memory", "1GB"), 2, "can only be measured on an engine"),
        ((simulated.MODEL, "--max-bytes", "95MB", "--engine", "llamacp"), 2, "Did you mean 'llamacpp'"),
        ((simulated.MODEL, "--max-bytes", "95MB", "--records", "nothing.jsonl"), 8, "nothing.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recommend(*words) == code
    assert message in capsys.readouterr().err


def test_a_damaged_answer_is_no_answer(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend(simulated.MODEL, "--max-bytes", "120MB") == 0
    with Store(store) as opened:
        (kept,) = opened.answers()
        opened.keep_answer(KeptAnswer(kept.id, kept.model, kept.content.replace("120000000", "120000001")))
    capsys.readouterr()

    assert recommend("--show") == 8
    assert "differs from its id" in capsys.readouterr().err


def test_a_store_without_answers_says_so(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del store
    assert recommend("--show") == 8
    assert "has no recommendation yet" in capsys.readouterr().err


def test_records_alone_need_no_torch(store: Path) -> None:
    del store
    asked = ["recommend", simulated.MODEL, "--max-bytes", "120MB", "--minutes", "0"]
    script = (
        "import sys; from slmquant.cli._app import run\n"
        f"assert run([*{asked!r}, '--engine', 'llamacpp']) == 3\n"
        f"assert run({asked!r}) == 0\n"
        "assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_documented_answer_is_what_the_command_prints(tmp_path: Path) -> None:
    """The first example of docs/recommend.md, from published cells."""
    page = (ROOT / "docs" / "recommend.md").read_text(encoding="utf-8")
    block = page.partition("## An answer from published cells\n\n")[2].partition("\n## ")[0]
    lines = [line.removeprefix("    ") for line in block.rstrip("\n").splitlines()]
    words = shlex.split(" ".join(line.removesuffix("\\") for line in lines[:2]).removeprefix("$ slmquant"))

    printed = subprocess.run(
        [sys.executable, "-m", "slmquant", *words, "--store", str(tmp_path / "new.sqlite")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    shown = (printed.stdout + printed.stderr).rstrip("\n").splitlines()
    assert [line.rstrip() for line in shown] == lines[2:]
