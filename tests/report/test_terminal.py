"""The terminal's table shows every cell, in order, with what is absent as absent."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from slmquant.analysis.compare import compare
from slmquant.report._columns import best, columns, significant
from slmquant.report._headline import headline
from slmquant.report._sections import sections
from slmquant.report._tables import tables
from slmquant.report._words import notes
from slmquant.report.comparison import comparison_report
from slmquant.report.terminal import print_report, record_report
from slmquant.store.record import Metric, Record
from tests import invented
from tests.narrowed import present


def printed(records: list[Record], width: int = 200) -> str:
    file = io.StringIO()
    print_report(records, Console(file=file, width=width))
    return file.getvalue()


def test_the_reference_comes_first_then_cells_by_divergence_then_failures() -> None:
    lines = [line.split()[:2] for line in printed(invented.benchmark()[::-1]).splitlines() if line.strip()]
    cells = [tuple(words) for words in lines if len(words) == 2 and words[1].startswith("W")]

    assert cells[0] == ("none", "W16A16")
    assert cells[1:4] == [("smoothquant", "W8A8"), ("gptq", "W8A8"), ("rtn", "W8A8")]
    assert cells[-3:] == [("smoothquant", "W4A16g64"), ("gptq", "W2A16g64"), ("rtn", "W3A16g64")]
    assert len(cells) == 13


def test_footnotes_state_protocol_subset_dtype_machine_and_provenance() -> None:
    text = " ".join(printed(invented.benchmark()).split())

    for fact in (
        invented.PROTOCOL,
        "arc_easy:100: acc_norm on 100 items",
        "matrix products of linear layers in bfloat16, on cpu",
        "Invented CPU 9000",
        "dequantized from GGUF Q4_1, off-grid",
        "no rtn cell of the same model and scheme on the same machine",
    ):
        assert fact in text


def test_reasons_are_shown_as_they_are_written() -> None:
    record = invented.record("gptq", "W4A8", status="failed", reason="[red]not markup[/red]")

    assert "[red]not markup[/red]" in printed([record])


def test_a_narrow_terminal_loses_columns_and_says_which() -> None:
    text = printed(invented.benchmark(), width=90)

    assert "Not shown in 90 columns: > chance %, bpw, peak MB" in text
    assert all(len(line) <= 90 for line in text.splitlines())
    assert "smoothquant  W4A8" in text


def test_cells_of_different_conditions_are_never_in_one_table() -> None:
    a, b = invented.benchmark()[1:3]
    b = b.model_copy(update={"spec": b.spec.model_copy(update={"compute_dtype": "float32"})})

    assert [len(section.cells) for section in sections([a, b])] == [1, 1]


def test_the_headline_is_the_smallest_cell_that_loses_little() -> None:
    said = headline(sections(invented.benchmark())[0]).replace("\N{NO-BREAK SPACE}", " ")

    assert said == (
        "At 113 MB instead of 269 MB, gptq W4A16g64 raises perplexity to 22.10 from 20.12 "
        "(+9.8 %, 95 % interval +6.2 to +13.6)"
    )


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (
            (0, 2),
            "At 110 MB instead of 269 MB, even rtn W4A8 raises perplexity to 71.80 from 20.12 "
            "(+256.9 %, 95 % interval +245.2 to +268.9)",
        ),
        ((8,), "At 113 MB, gptq W4A16g64 has a perplexity of 22.10"),
        ((0,), "At 269 MB, full precision has a perplexity of 20.12"),
        ((12,), "invented-135m: nothing measured yet"),
    ],
)
def test_the_headline_claims_no_more_than_was_measured(keep: tuple[int, ...], said: str) -> None:
    section = sections([invented.benchmark()[index] for index in keep])[0]

    assert headline(section).replace("\N{NO-BREAK SPACE}", " ") == said


def test_without_a_text_the_headline_names_no_cell() -> None:
    records = [
        record.model_copy(
            update={"metrics": tuple(m for m in record.metrics if m.name not in ("perplexity", "kl_mean"))}
        )
        for record in invented.benchmark()[:3]
    ]
    said = headline(sections(records)[0])

    assert said.startswith("2 quantized cells, but no text among the tasks")


def test_cells_inside_the_noise_of_full_precision_are_named() -> None:
    reference, *cells = invented.benchmark()[:3]
    text = sections([reference])[0].texts[0]
    closest = min(present(cell.metric("kl_mean", text)).value for cell in cells)
    floor = Metric(name="kl_noise_floor", value=closest, unit="nats", higher_is_better=None, task=text)
    noisy = reference.model_copy(update={"metrics": (*reference.metrics, floor)})
    (said,) = [note for note in notes(sections([noisy, *cells])[0]) if "rounding the residual stream" in note]
    names = [cell.name for cell in sections([noisy, *cells])[0].quantized]
    close, far = sorted(names, key=lambda name: name not in said)

    assert close in said
    assert far not in said


def test_best_is_among_quantized_cells_and_needs_a_contest() -> None:
    section = sections(invented.benchmark())[0]
    winners = {column.title: best(column, section) for column in columns(section)}
    by_label = {cell.name: cell.record.cell_id for cell in section.cells}

    assert winners["top-1 %"] == winners["KL p99"] == frozenset()  # described, not tested
    assert winners["ppl"] == {by_label[f"{method} W8A8"] for method in ("smoothquant", "rtn", "gptq")}
    assert winners["MB"] == {by_label["gptq W3A16g64"]}
    alone = sections(invented.benchmark()[:2])[0]
    assert not any(best(column, alone) for column in columns(alone))


def test_a_cell_shows_every_metric() -> None:
    record = invented.benchmark()[8]
    file = io.StringIO()
    Console(file=file, width=160).print(record_report(record))

    assert all(metric.name in file.getvalue() for metric in record.metrics)
    assert record.cell_id in file.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00461, "0.00461"),
        (0.5, "0.500"),
        (22.1, "22.1"),
        (1234.5, "1,234"),
        (3.1e7, "3.1e+07"),
        (0, "0"),
        (-6.74, "-6.74"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


ANSWERS = {record.cell_id: invented.items(record) for record in invented.benchmark()}


def shown_with_answers(width: int = 250) -> str:
    file = io.StringIO()
    print_report(invented.benchmark(), Console(file=file, width=width), answers=ANSWERS)
    return " ".join(file.getvalue().split())


def test_the_report_says_who_cannot_be_told_apart() -> None:
    text = shown_with_answers()

    assert "arc_easy:100 (n=100): against full precision: worse: gptq W3A16g64" in text
    assert "too few items to tell: smoothquant W8A8" in text and "80 % sure to detect a difference of" in text
    assert "arc_easy:100: the best, smoothquant W8A8, is not significantly better than" in text
    assert "(Holm)" in text


def test_flips_are_shown_with_what_they_mean() -> None:
    text = shown_with_answers()

    assert "rtn W4A8 −17 +0 ▼ −13 +0 ▼" in text
    assert "rtn W8A8 −0 +0 ? −0 +0 ?" in text
    assert "▼" not in printed(invented.benchmark())


def test_accuracy_from_chance_stands_beside_accuracy() -> None:
    record = invented.benchmark()[0]
    file = io.StringIO()
    Console(file=file, width=250).print(record_report(record))
    line = next(line.split() for line in file.getvalue().splitlines() if "above chance" in line)

    assert line[2] == "0.3867"  # (0.54 − 0.25) / 0.75
    assert "> chance %" in printed(invented.benchmark(), width=250)


def test_best_cells_that_cannot_be_told_apart_are_all_marked() -> None:
    section = sections(invented.benchmark(), answers=ANSWERS)[0]
    column = next(one for one in columns(section) if one.task == invented.ARC)

    assert len(best(column, section)) > 2


def on_engine(cell: Record, engine: str) -> Record:
    """What an engine made of a cell, with invented figures."""
    figures = (("artifact_bytes", 1e8), ("inference_added_rss_bytes", 3e8), ("decode_tokens_per_s@512", 60.0))
    return cell.model_copy(
        update={
            "spec": cell.spec.on(engine),
            "metrics": tuple(invented.metric(name, value, unit="x") for name, value in figures),
        }
    )


def test_three_tracks_stand_side_by_side_where_engines_ran() -> None:
    cells = [record for record in invented.benchmark() if record.status == "ok"]
    ran = [on_engine(cell, engine) for cell in cells[:3] for engine in ("llamacpp", "openvino")]
    (section,) = sections([*cells, *ran])
    kept, on_engines, tracks = tables(section)

    assert [row.heads[2] for row in on_engines.rows] == ["llamacpp"] * 3 + ["openvino"] * 3
    assert not {"perf", "cons"} & {column.title for column in kept.columns}
    titles = [(column.title, column.about) for column in tracks.columns]
    assert titles == [
        ("perf", None),
        ("perf > chance", None),
        ("infer", "llamacpp"),
        ("infer", "openvino"),
        ("cons", None),
    ]
    full = next(row for row in tracks.rows if row.cell.is_reference)
    assert [field.reading.text for field in full.fields if field.reading] == ["100.0"] * 4
    assert "Scores of the three tracks" in printed([*cells, *ran], width=100)


def test_speeds_of_a_busy_machine_carry_a_warning() -> None:
    cells = [record for record in invented.benchmark() if record.status == "ok"][:2]
    quiet, busy = (invented.metric("noise_others", share, unit="ratio") for share in (0.01, 0.3))
    ran = [on_engine(cell, "openvino") for cell in cells]
    ran = [record.model_copy(update={"metrics": (*record.metrics, quiet)}) for record in ran]
    loud = on_engine(cells[1], "llamacpp")
    loud = loud.model_copy(update={"metrics": (*loud.metrics, busy, invented.metric("noise_stolen", 0.1, unit="r"))})
    said = [note for note in notes(sections([*cells, *ran, loud])[0]) if "was timed while" in note]

    assert len(said) == 1
    assert said[0].startswith("llamacpp was timed while other processes took up to 40% of all processor time")


HOSTILE = "\x1b]0;owned\x07[/bold][link=x]\x9b2J\r\u202e"


@pytest.mark.parametrize("width", [80, 250])
def test_a_terminal_obeys_no_name_of_a_store(width: int) -> None:
    """Neither control characters nor markup of a model, method, task, metric or reason reach it, and none ends it."""
    cells = [
        record.model_copy(
            update={
                "spec": record.spec.model_copy(update={"model": HOSTILE, "method": record.spec.method + HOSTILE}),
                "reason": HOSTILE,
                "metrics": (
                    *record.metrics,
                    Metric(name=HOSTILE, value=1.0, unit=HOSTILE, higher_is_better=True, task=HOSTILE),
                ),
            }
        )
        for record in invented.benchmark()
    ]
    file = io.StringIO()
    console = Console(file=file, width=width)
    print_report(cells, console)
    console.print(record_report(cells[1]))
    console.print(comparison_report(cells[1], cells[2], compare(cells[1], cells[2])))
    text = file.getvalue()

    assert not set(text) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"}
    assert "[/bold]" in text.replace("\n", "")


def test_none_right_of_five_is_no_certainty() -> None:
    """`0.0 ±0.0` of five items reads as known exactly."""
    record = invented.benchmark()[1]
    metrics = tuple(
        m.model_copy(update={"value": 0.0, "stderr": 0.0, "n": 5})
        if m.task == invented.ARC and m.name != "chance"
        else m
        for m in record.metrics
    )
    text = " ".join(printed([record.model_copy(update={"metrics": metrics})], width=250).split())

    assert "0.0 [0.0, 43.4]" in text and "0.0 ±0.0" not in text
