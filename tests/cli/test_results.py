"""The commands that read results: what they print, what they refuse; with --json nothing else on stdout."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from slmquant.errors import OutputError, SlmquantError, StoreError, UnknownNameError
from slmquant.store import Store
from tests import invented

app = typer.Typer(rich_markup_mode="rich")
for name in ("list", "show", "compare", "report", "merge", "check"):
    app.command(name)(import_module(f"slmquant.cli.{name}").command)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "results.sqlite"
    monkeypatch.setenv("SLMQUANT_STORE", str(path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    with Store(path) as store:
        for record in invented.benchmark():
            store.put(record, invented.items(record))
    return path


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, SlmquantError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.usefixtures("results")
class TestCommands:
    def test_list_prints_a_line_per_cell(self) -> None:
        out = run("list").stdout

        assert "13 cells" in out
        assert out.count("smoothquant") >= 3

    def test_list_filters(self) -> None:
        rows = json.loads(run("list", "--method", "gptq", "--scheme", "w4a16G64", "--json").stdout)

        assert [(row["method"], row["scheme"]) for row in rows] == [("gptq", "W4A16g64")]
        assert rows[0][f"perplexity[{invented.TEXT}]"] == 22.1

    def test_list_prints_the_latest_cells_and_counts_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = json.loads(run("list", "--json").stdout)
        monkeypatch.setattr("slmquant.cli.list.SHOWN_CELLS", 5)
        short = run("list")

        assert "5 cells" in short.stdout and "8 cells that finished earlier are not listed" in short.stderr
        assert all((row["cell_id"][:8] in short.stdout) is (row in whole[-5:]) for row in whole)
        everything = run("list", "--limit", "0")
        assert "13 cells" in everything.stdout and everything.stderr == ""
        assert len(whole) == 13
        latest = json.loads(run("list", "--json", "--limit", "2", "--method", "gptq").stdout)
        assert [row["cell_id"] for row in latest] == [row["cell_id"] for row in whole if row["method"] == "gptq"][-2:]

    def test_an_empty_selection_is_empty_json(self) -> None:
        assert json.loads(run("list", "--status", "timeout", "--json").stdout) == []

    def test_an_unknown_name_gets_the_nearest_ones(self) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'gptq'"):
            run("list", "--method", "gtpq")
        with pytest.raises(UnknownNameError, match="Did you mean 'failed'"):
            run("list", "--status", "fialed")
        with pytest.raises(UnknownNameError, match="unknown format 'pdf'"):
            run("report", "--format", "pdf")

    def test_show_takes_a_prefix_or_a_label(self) -> None:
        shown = json.loads(run("show", "gptq/W4A16g64", "--json").stdout)

        assert shown == json.loads(run("show", shown["cell_id"][:8], "--json").stdout)
        assert shown["cell_id"] in run("show", "gptq/W4A16g64").stdout

    def test_compare_pairs_the_kept_answers(self) -> None:
        result = json.loads(run("compare", "rtn/W4A8", "gptq/W4A16g64", "--json").stdout)
        accuracies = [d for d in result["differences"] if d["name"] == "acc_norm"]

        assert [d["pairs"] for d in accuracies] == [100, 100]
        assert "(100 pairs)" in run("compare", "rtn/W4A8", "gptq/W4A16g64").stdout

    def test_compare_says_in_what_the_cells_were_not_run_alike(self, results: Path) -> None:
        first, second = invented.benchmark()[1:3]
        other = second.spec.model_copy(update={"compute_dtype": "float32"})
        with Store(results) as store:
            store.put(second.model_copy(update={"spec": other}), ())
        words = "A and B differ in compute dtype (bfloat16 and float32): differences in accuracy, loss and divergence"

        assert words in run("compare", first.cell_id, other.cell_id).stdout
        said = json.loads(run("compare", first.cell_id, other.cell_id, "--json").stdout)
        assert said["unlike"] == {"compute dtype": ["bfloat16", "float32"]} and words in said["unlike_means"]
        assert "differ in" not in run("compare", first.cell_id, second.cell_id).stdout

    def test_report_prints_the_table_and_writes_everything(self, tmp_path: Path) -> None:
        out = run("report").stdout

        assert "gptq W4A16g64 raises perplexity" in out
        written = sorted(path.name for path in (tmp_path / "results" / "report").iterdir())
        assert written == ["index.html", "results.csv", "results.json"]

    def test_report_as_json_prints_nothing_else(self, tmp_path: Path) -> None:
        rows = json.loads(run("report", "--json", "-o", str(tmp_path / "out"), "--quiet").stdout)

        assert rows == json.loads((tmp_path / "out" / "results.json").read_text()) and len(rows) == 13

    def test_a_reference_that_was_not_measured_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'gptq'"):
            run("report", "-f", "html", "-o", str(tmp_path), "--consumption-reference", "gptk")

    def test_the_page_says_how_its_scores_were_computed(self, tmp_path: Path) -> None:
        for flags, said in (
            ((), "with round-to-nearest (cons)"),
            (("--consumption-reference", "gptq"), "with gptq (cons)"),
        ):
            run("report", "-f", "html", "-o", str(tmp_path), *flags)
            assert said in (tmp_path / "index.html").read_text()
        run("report", "-f", "html", "-o", str(tmp_path), "--no-perplexity")
        assert "inverse perplexity" not in (tmp_path / "index.html").read_text()

    def test_report_of_one_format_writes_nothing_else(self, tmp_path: Path) -> None:
        assert run("report", "--format", "csv", "-o", "out", "--quiet").output == ""
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.csv"]

    def test_results_can_be_read_while_a_bench_writes(self, results: Path) -> None:
        with Store(results):
            assert "13 cells" in run("list").stdout

    def test_stores_are_merged_and_checked(self, results: Path, tmp_path: Path) -> None:
        out = tmp_path / "all.jsonl"
        assert "13 cells (13 added" in run("merge", str(results), "-o", str(out)).stderr
        assert json.loads(run("check", str(out), "--json").stdout) == {"cells": 13, "complaints": []}
        with pytest.raises(OutputError, match="already exists"):
            run("merge", str(results), "-o", str(out))
        with pytest.raises(OutputError, match="also a source"):
            run("merge", str(results), "-o", str(results))
        out.write_text(out.read_text().replace('"name":"acc_norm","value":0.', '"name":"acc_norm","value":0.0'))
        with pytest.raises(StoreError, match="contradictions in 13 cells"):
            run("check", str(out))

    @pytest.mark.parametrize("name", ["list", "show", "compare", "report", "merge", "check"])
    def test_help_has_examples(self, name: str) -> None:
        assert f"slmquant {name}" in run(name, "--help").stdout


def test_no_store_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="slmquant bench"):
        run("list", "--store", str(tmp_path / "none.sqlite"))


def test_an_empty_store_has_nothing_to_report(tmp_path: Path) -> None:
    Store(tmp_path / "empty.sqlite").close()
    with pytest.raises(StoreError, match="no cells yet"):
        run("report", "--store", str(tmp_path / "empty.sqlite"))


def test_the_perplexity_in_the_list_is_that_of_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LAMBADA has one too, of the words that it asks for."""
    record = invented.benchmark()[1]
    lambada = (
        invented.metric("acc", 0.3, "lambada_openai", n=9),
        invented.metric("perplexity", 77.0, "lambada_openai", n=9),
    )
    monkeypatch.setenv("COLUMNS", "200")
    with Store(tmp_path / "one.sqlite") as store:
        store.put(record.model_copy(update={"metrics": (*lambada, *record.metrics)}))
    out = run("list", "--store", str(tmp_path / "one.sqlite")).stdout

    assert "77.0" not in out and f"{record.metric('perplexity', invented.TEXT).value:.2f}" in out  # type: ignore[union-attr]


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("confidence", ["95", "0.05"])
def test_what_is_no_confidence_is_refused(confidence: str) -> None:
    said = CliRunner().invoke(app, ["compare", "rtn/W4A16g64", "gptq/W4A16g64", "--until-separated", confidence])

    assert said.exit_code == 2 and "such as 0.95" in said.output
