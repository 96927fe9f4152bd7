from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from slmquant.calib.corpora import load_corpus
from slmquant.calib.rows import checked_text, parse_rows, read_rows
from slmquant.errors import DataError


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\u0085", "\u000b", "\u001c", "\r"])
def test_rows_end_at_line_feeds_alone(tmp_path: Path, inside: str) -> None:
    """JSON allows U+2028 and U+0085 inside strings as they are; what it does not allow is escaped here."""
    rows = [{"text": f"one{inside}two"}, {"text": "three"}]
    (tmp_path / "text").mkdir()
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "text" / "c4_train_a.jsonl").write_bytes(content.encode())
    assert load_corpus("c4_train_a", tmp_path).documents == (f"one{inside}two", "three")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(content.replace("\n", "\r\n\n").encode()))
    assert read_rows(tmp_path / "rows.jsonl.gz") == rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": null}', "'text' is null"),
        ('{"text": 5}', "'text' is a number"),
        ('{"text": ["a", "b"]}', "'text' is a list"),
        ('{"body": "x"}', "it has no 'text'; its fields: 'body'"),
        ("{}", "it has no 'text'; its fields: none"),
        ('["text"]', "the row is a list"),
        ('"text"', "the row is text"),
        ('{"text": "cut \\ud83d here"}', r"'text' holds half of a character \(\\ud83d"),
        ('{"text": "x", "id": ["\\udc00"]}', r"it holds half of a character \(\\udc00"),
        ('{"text": ', "Expecting value"),
        ("[" * 5000, "nested too deeply|Expecting value"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_file_and_line(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "text").mkdir()
    path = tmp_path / "text" / "wikitext2_train.jsonl"
    path.write_text('{"text": "good"}\n\n' + row + '\n{"text": "good"}\n')
    with pytest.raises(DataError, match=rf"wikitext2_train\.jsonl is malformed in line 3: ({said})"):
        load_corpus("wikitext2_train", tmp_path)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_rows('{"text": "\\ud83d\\ude00"}', "x", ("text",)) == [{"text": "😀"}]


@pytest.mark.parametrize("value", [None, 5, ["a"], "\udc80"])
def test_what_is_no_text_is_refused_wherever_it_comes_from(value: object) -> None:
    with pytest.raises(DataError, match=r"row 7 of the hub (is|holds) .*; expected text"):
        checked_text(value, "row 7 of the hub")
    assert checked_text("a\0b", "row") == "a\0b"
