"""The page of an inspection is whole by itself; its tables are those of the terminal and of documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slmquant.errors import StoreError
from slmquant.report._inspected_tables import tables_of
from slmquant.report._inspected_words import of_layers, sentences
from slmquant.report.inspected import render_inspection
from slmquant.report.published import fill_in
from tests.report.test_page import Outline
from tests.store.test_inspected import made_up


def test_the_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    page = render_inspection(made_up())
    outline = Outline(page)

    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    assert not re.search(r"@import|url\((?!#)|fetch\(|https?://(?!www\.w3\.org/)", page)
    assert len(outline.ids) == len(set(outline.ids))
    assert page.count("<svg") == len(re.findall("<figure>", page)) == 6
    assert page == render_inspection(made_up())


def test_names_and_tokens_are_escaped() -> None:
    page = render_inspection(made_up().model_copy(update={"model": "<b>bold</b>"}))

    assert "<b>bold</b>" not in page


def test_an_anatomy_alone_makes_a_page() -> None:
    bare = made_up().model_copy(update={"weights": (), "inputs": (), "stream": (), "attention": ()})

    assert list(tables_of(bare)) == ["sizes", "blocks"]
    assert render_inspection(bare).count("<figure>") == 1


def test_every_row_has_a_field_for_every_head() -> None:
    for table in tables_of(made_up()).values():
        assert {len(row) for row in table.rows} == {len(table.heads)}, table.title


def test_a_tied_head_is_counted_once() -> None:
    rows = {row[0]: row for row in tables_of(made_up())["sizes"].rows}

    assert rows["head"][2] == "tied"
    assert rows["all"][4] == "0.00" and rows["bits per weight"][4] == "16.00"


def test_what_is_remarkable_is_said_in_sentences() -> None:
    told = " ".join(sentences(made_up()))

    assert "20 % of them in 8 token vectors (embedding and head are one)" in told
    assert "1 of 2 heads are sinks; on average 40 % of attention" in told
    assert "Massive activations behind layers 1-2, in channel 3." in told


def test_layers_are_named_in_runs() -> None:
    assert of_layers([5, 0, 1, 2, 7]) == "0-2, 5, 7"


def test_documents_show_tables_and_sentences_of_an_inspection(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(made_up().model_dump_json(), encoding="utf-8")

    text = fill_in("<!-- inspected made.json blocks -->\n<!-- end -->\n", tmp_path)
    told = fill_in("<!-- inspected made.json sentences -->\n<!-- end -->\n", tmp_path)

    assert "| 0-2 | rotary | all | 6 | 2 | 3 | 4 | no | yes | none |" in text
    assert "- 1 of 2 heads are sinks" in told
    with pytest.raises(StoreError, match="no table 'sizzes'; expected sentences, sizes"):
        fill_in("<!-- inspected made.json sizzes -->\n<!-- end -->\n", tmp_path)


def test_a_file_that_is_no_inspection_is_told(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text('{"model": "x"}', encoding="utf-8")

    with pytest.raises(StoreError, match="cannot be read"):
        fill_in("<!-- inspected made.json sizes -->\n<!-- end -->\n", tmp_path)
