"""The page is whole by itself, escapes what it is given, and is the same for the same records."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import yaml

from slmquant.report._plot import method_series
from slmquant.report._sections import sections
from slmquant.report._words import plans
from slmquant.report.files import write_report_csv, write_report_json
from slmquant.report.page import render, write_page
from slmquant.runs.plan import make_plan
from tests import invented

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Outline(HTMLParser):
    """Collects ids, references and tags, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src", "xlink:href") and value:
                self.references.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_the_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    page = render(invented.benchmark())
    outline = Outline(page)

    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    assert not re.search(r"@import|url\((?!#)|fetch\(|https?://(?!www\.w3\.org/)", page)
    assert {reference[1:] for reference in outline.references if reference[0] == "#"} <= set(outline.ids)
    assert len(page) < 300_000


def test_ids_are_unique_even_with_the_same_model_twice() -> None:
    first = invented.benchmark()
    second = [r.model_copy(update={"spec": r.spec.model_copy(update={"compute_dtype": "float32"})}) for r in first]
    ids = Outline(render([*first, *second])).ids

    assert len(ids) == len(set(ids))


def test_every_point_can_be_pointed_at_and_found_in_the_table() -> None:
    page = render(invented.benchmark())
    dots = re.findall(r'class="dot" tabindex="0" role="img" aria-label="([^"]+)" data-cell="(\w+)"', page)

    assert len(dots) == 10 + 9
    assert all(f'id="row-{cell_id}"' in page for _, cell_id in dots)
    assert "gptq W4A16g64 · perplexity on wikitext2:8 22.1 · 113.2 MB" in {label for label, _ in dots}


def test_what_records_say_is_escaped() -> None:
    record = invented.record("gptq", "W4A8", status="failed", reason="<script>alert(1)</script>")
    page = render([*invented.benchmark()[:3], record])

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_same_records_give_the_same_page() -> None:
    assert render(invented.benchmark()) == render(invented.benchmark())


def test_a_page_of_failures_alone_and_of_nothing_can_be_written() -> None:
    failures = invented.benchmark()[10:]

    assert all((record.reason or "").split("<")[0] in render(failures) for record in failures)
    assert "No results yet" in render([])
    Outline(render(failures))


def test_details_carry_checksums_environment_and_definitions() -> None:
    page = render(invented.benchmark())

    for fact in (
        "cdcdcdcd",
        "Invented CPU 9000",
        "amx_bf16",
        "Kullback–Leibler",
        "slmquant bench --plan plan.yaml",
    ):
        assert fact in page


def test_the_plan_on_the_page_asks_for_the_cells_of_the_table() -> None:
    records = invented.benchmark()
    (plan,) = plans(sections(records)[0])
    asked = make_plan(yaml.safe_load(plan)).cells("invented-135m", records[0].spec.model_sha256, "bfloat16")

    assert {r.cell_id for r in records} <= {spec.cell_id for spec in asked}


def test_the_plan_asks_for_the_budget_that_learning_had() -> None:
    cells = [
        invented.record("autoround", "W4A16g64", cell=invented.spec("autoround", "W4A16g64").model_copy(update=update))
        for update in ({"budget": "paper"}, {"budget": "fast"})
    ]
    section = sections([*invented.benchmark()[:1], *cells])[0]
    budgets = [yaml.safe_load(plan)["budget"] for plan in plans(section)]

    assert sorted(budgets) == ["fast", "paper"]
    assert {cell.method for cell in section.quantized} == {"autoround (paper budget)", "autoround (fast budget)"}


def test_files_are_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    records, folder = invented.benchmark(), tmp_path / "a" / "report"
    paths = [
        write_page(records, folder),
        write_report_csv(records, folder),
        write_report_json(records, folder),
    ]

    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "results.csv", "results.json"]
    assert all(path.stat().st_size > 1000 for path in paths)
    stored = json.loads((folder / "results.json").read_text())
    assert stored[8]["scores"]["slmq_perf"]["value"] > 90
    assert stored[11]["scores"]["slmq_perf"] == {
        "value": None,
        "harmonic_mean": None,
        "minimum": None,
        "ratios": {},
        "reason": "the cell is failed",
        "interval": None,
    }


def test_no_two_methods_look_alike() -> None:
    record = invented.benchmark()[1]
    many = [
        record.model_copy(update={"spec": record.spec.model_copy(update={"method": f"method{number:02}"})})
        for number in range(30)
    ]
    (section,) = sections([*invented.benchmark(), *many])

    looks = method_series(section)

    assert len(set(looks.values())) == len(looks) >= 30
