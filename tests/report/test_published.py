"""Tables of documents are those that the published cells make."""

import json
import re
from pathlib import Path

import pytest

from slmquant.errors import StoreError
from slmquant.report.published import fill_in, main
from slmquant.store.jsonlines import read_cells, write_cells
from slmquant.store.record import ItemOutcome, Phase, Record, Repeat
from slmquant.tracks.consumption import consumption_metrics
from tests import invented
from tests.analysis.test_factors import BASE, model

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def cell(
    method: str, scheme: str, perplexity: float, divergence: float | None, shift: float, seed: int = 0
) -> tuple[Record, list[ItemOutcome]]:
    metrics = [
        invented.metric("stored_bytes", 100e6),
        invented.metric("perplexity", perplexity, invented.TEXT, stderr=0.5),
    ]
    if divergence is not None:
        metrics.append(invented.metric("kl_mean", divergence, invented.TEXT, stderr=0.01, unit="nats"))
    items = [
        ItemOutcome(
            task=invented.TEXT,
            item=str(18 * place),
            values={"nll_mean": 3.0 + place / 10 + shift * (1 + place / 100)}
            | ({} if divergence is None else {"kl_mean": divergence * (1 + place / 100)}),
        )
        for place in range(8)
    ]
    spec = invented.spec(method, scheme)
    if spec.calibration is not None:
        spec = spec.model_copy(update={"calibration": spec.calibration.model_copy(update={"seed": seed})})
    return invented.record(method, scheme, tuple(metrics), cell=spec), items


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cells = [
        cell("none", "W16A16", 20.0, None, 0.0),
        cell("gptq", "W4A16g64", 22.0, 0.1, 0.1),
        cell("rtn", "W4A16g64", 25.0, 0.3, 0.3),
        cell("rtn", "W8A8", 20.5, 0.02, 0.01),
    ]
    refused = invented.record("hqq", "W4A16g64", status="refused", reason="needs | zero points")
    answers = {record.cell_id: items for record, items in cells}
    write_cells([*(record for record, _ in cells), refused], answers, tmp_path / "cells.jsonl")
    return tmp_path


def table(folder: Path, opening: str) -> list[list[str]]:
    text = fill_in(f"before\n<!-- {opening} -->\nold\n<!-- end -->\nafter\n", folder)
    assert text.startswith(f"before\n<!-- {opening} -->\n|")
    assert text.endswith("<!-- end -->\nafter\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[field.strip() for field in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_every_cell_that_matches_is_shown_and_none_else(folder: Path) -> None:
    head, _, *rows = table(folder, "cells cells.jsonl scheme=W4A16g64")

    assert head[:2] == ["method", "scheme"]
    assert [row[0] for row in rows] == ["`gptq`", "`rtn`", "`hqq`"]
    assert rows[2][2] == "refused: needs \\| zero points"


def test_what_a_method_adds_to_the_loss_is_paired(folder: Path) -> None:
    """The windows' losses spread by 0.7 nats, what rounding adds to them by a few hundredths."""
    _, _, first, *_ = table(folder, "cells cells.jsonl scheme=W4A16g64")
    found = re.fullmatch(r"\+([\d.]+) \[\+([\d.]+), \+([\d.]+)\]", first[5])

    assert found is not None, first[5]
    value, low, high = map(float, found.groups())
    assert value == pytest.approx(0.1 * 1.035, abs=1e-4)
    assert low < value < high < low + 0.02


def test_pairs_are_compared_as_they_are_named(folder: Path) -> None:
    _, _, row = table(folder, "pairs cells.jsonl rtn/W4A16g64 gptq/W4A16g64")

    assert row[:3] == ["`rtn`", "`gptq`", "W4A16g64"]
    assert row[3].startswith("-0.2070 [-")
    assert row[4].startswith("-0.2070 [-")


def test_pairs_are_shown_on_every_seed_of_calibration_and_never_across_two(tmp_path: Path) -> None:
    cells = [
        cell("gptq", "W4A16g64", 22.0, 0.1, 0.1, seed=1),
        cell("gptq", "W4A16g64", 22.2, 0.12, 0.11, seed=2),
        cell("smoothquant", "W4A16g64", 25.0, 0.3, 0.3, seed=1),
        cell("smoothquant", "W4A16g64", 25.5, 0.35, 0.32, seed=2),
        cell("rtn", "W4A16g64", 26.0, 0.4, 0.4),
    ]
    answers = {record.cell_id: items for record, items in cells}
    write_cells([record for record, _ in cells], answers, tmp_path / "cells.jsonl")

    head, _, *rows = table(tmp_path, "pairs cells.jsonl gptq/W4A16g64 smoothquant/W4A16g64, rtn/W4A16g64 gptq/W4A16g64")

    assert head[3] == "seed"
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("`gptq`", "`smoothquant`", "1"),
        ("`gptq`", "`smoothquant`", "2"),
        ("`rtn`", "`gptq`", "1"),
        ("`rtn`", "`gptq`", "2"),
    ]
    assert rows[0][4].startswith("+0.2070 [+")


def test_a_report_is_the_table_of_the_terminal(folder: Path) -> None:
    head, _, *rows = table(folder, "report cells.jsonl")

    assert "ppl" in " ".join(head)
    assert {(row[0], row[1]) for row in rows} >= {("rtn", "W8A8"), ("gptq", "W4A16g64")}


def test_a_report_names_its_models_if_there_are_several_and_scores_over_them(folder: Path, tmp_path: Path) -> None:
    records, answers = read_cells(folder / "cells.jsonl")
    others = [
        record.model_copy(update={"spec": record.spec.model_copy(update={"model": "other", "model_sha256": "0" * 64})})
        for record in records
    ]
    write_cells([*records, *others], dict(answers), tmp_path / "two.jsonl")

    text = fill_in("<!-- report two.jsonl -->\n<!-- end -->\n", tmp_path)
    _, *rows = table(tmp_path, "models two.jsonl")

    assert [line for line in text.splitlines() if line.startswith("**")] == ["**invented-135m**", "**other**"]
    assert ["gptq", "W4A16g64", "2"] in [row[:3] for row in rows]


def test_notes_say_what_cannot_be_told_apart(folder: Path) -> None:
    text = fill_in("<!-- notes cells.jsonl -->\n<!-- end -->\n", folder)
    lines = text.splitlines()[1:-1]

    assert all(line.startswith("- ") for line in lines)
    assert any("against full precision in perplexity: worse" in line for line in lines)


def costed(method: str, phases: tuple[Phase, ...]) -> Record:
    return invented.record(method, "W4A16g64", tuple(consumption_metrics(phases, None))).model_copy(
        update={"phases": phases}
    )


def test_costs_are_those_of_both_phases_cheapest_first(tmp_path: Path) -> None:
    """What is shared is charged in full; of a phase that was repeated the spread is shown; loading is no cost."""
    load = Phase(name="load", seconds=9.0, cpu_s=9.0, added_rss_bytes=700_000_000)
    capture = Phase(name="capture", seconds=90.0, cpu_s=70.4, added_rss_bytes=540_000_000, noise=0.25, shared=True)
    slow = Phase(name="quantize", seconds=30.0, cpu_s=20.3, added_rss_bytes=460_000_000, noise=0.1)
    runs = tuple(Repeat(seconds=4.0, cpu_s=cpu_s, added_rss_bytes=None, noise=None) for cpu_s in (3.14, 3.4, 4.26))
    quick = Phase(name="quantize", seconds=4.0, cpu_s=3.4, added_rss_bytes=390_000_000, noise=0.05, repeated=runs)
    unknown = invented.record("hqq", "W4A16g64")
    cells = [costed("gptq", (load, capture, slow)), costed("rtn", (load, quick)), unknown]
    write_cells(cells, {}, tmp_path / "cells.jsonl")

    head, _, *rows = table(tmp_path, "costs cells.jsonl scheme=W4A16g64")

    assert head == ["method", "scheme", "statistics, CPU s", "quantizing, CPU s", "both, CPU s", "added MB"]
    assert rows == [
        ["`rtn`", "W4A16g64", "", "3.4 (3.1 to 4.3)", "3.4", "390"],
        ["`gptq`", "W4A16g64", "70", "20", "91", "540"],
    ]
    text = fill_in("<!-- costs cells.jsonl -->\n<!-- end -->\n", tmp_path)
    assert "other processes took up to 25% of all processor time" in text


def test_what_a_benchmark_printed_is_shown(tmp_path: Path) -> None:
    printed = {"heads": ["made by", "MB"], "rows": [["ours", "91.7"]], "conditions": "Two cores.", "differences": ["a"]}
    (tmp_path / "reach.json").write_text(json.dumps(printed))

    assert table(tmp_path, "printed reach.json") == [["made by", "MB"], ["---", "---"], ["ours", "91.7"]]
    assert "\n- a\n" in fill_in("<!-- printed reach.json differences -->\n<!-- end -->\n", tmp_path)


@pytest.mark.parametrize(
    ("opening", "complaint"),
    [
        ("cells cells.jsonl scheme=W2A16", "no published cell"),
        ("cells cells.jsonl bits=4", "unknown filter bits"),
        ("costs cells.jsonl bits=4", "unknown filter bits"),
        ("costs cells.jsonl", "has a measured cost of quantizing"),
        ("pairs cells.jsonl rtn/W4A16g64", "expected two cells"),
        ("pairs cells.jsonl rtn gptq/W4A16g64", "no published cell has the label 'rtn'"),
        ("cells absent.jsonl", "cannot be read"),
        ("printed absent.json", "cannot be read"),
        ("report cells.jsonl scheme=W8A8", "takes no filter"),
        ("models cells.jsonl scheme=W8A8", "takes no filter"),
        ("engines cells.jsonl", "no cell was measured on an engine"),
        ("models cells.jsonl", "measured on two models"),
    ],
)
def test_what_cannot_be_shown_is_said(folder: Path, opening: str, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint):
        fill_in(f"<!-- {opening} -->\n<!-- end -->\n", folder)


def test_the_command_ends_with_one_line_and_leaves_the_document(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = "<!-- cells absent.jsonl -->\n<!-- end -->\n"
    (folder / "page.md").write_text(before)

    assert main(["page.md"]) == StoreError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: page.md: published cells ")
    assert "absent.jsonl cannot be read" in line
    assert (folder / "page.md").read_text() == before


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_say_what_was_published(document: Path) -> None:
    """`python -m slmquant.report.published README.md docs/*.md` was run after the last cell was published."""
    text = document.read_text(encoding="utf-8")

    assert fill_in(text, ROOT) == text


def test_the_effects_of_a_laboratory_are_printed_with_their_footnotes(tmp_path: Path) -> None:
    records = [
        record
        for block in range(2)
        for arm, divergence in ((BASE, 0.1), (("position", "nope"), 0.2))
        for record in model(arm, block, divergence)
    ]
    write_cells(records, {}, tmp_path / "lab.jsonl")
    opening = "<!-- lab lab.jsonl -->\n"
    text = fill_in(f"{opening}old\n<!-- end -->\n", tmp_path)

    assert text.startswith(f"{opening}| factor | level | divergence [95 %] |")
    assert "| position | nope | × 2.00 | 0.500 | 2 |" in text
    assert "\n- 2 blocks and 1 levels can show no corrected p below 0.5" in text
    by_cell = fill_in("<!-- lab lab.jsonl by cell -->\n<!-- end -->\n", tmp_path)
    assert "| factor | level | rtn/W8A8 |" in by_cell
    with pytest.raises(StoreError, match="cannot show factors 'by scheme'; expected 'by cell' or nothing"):
        fill_in("<!-- lab lab.jsonl by scheme -->\n<!-- end -->\n", tmp_path)
