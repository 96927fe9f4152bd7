"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from slmquant.analysis.chance import above_chance, accuracy_interval
from slmquant.analysis.difference import UNPAIRED, Difference
from slmquant.analysis.intervals import Interval
from slmquant.analysis.scores import DEFAULT_OPTIONS, ScoreOptions
from slmquant.analysis.standing import Answers
from slmquant.report._columns import ABOVE_CHANCE, ABSENT, Column, best, columns, number
from slmquant.report._sections import NO_ANSWERS, Section, sections
from slmquant.report._words import STATUS_WORDS, flips, headline, notes, remarks, scheme_words
from slmquant.store.record import Record, task_name

DROP_ORDER = (ABOVE_CHANCE, "bpw", "peak MB", "KL p99", "cons", "top-1 %", "perf > chance", "quant s", "perf")
"""Columns that a narrow terminal does without, the first to go first."""

VERDICT_STYLES = {"better": "green", "worse": "red", "refused": "dim", "indistinguishable": "dim"}


def print_report(
    records: Sequence[Record],
    console: Console,
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
) -> None:
    """Print a table for each model and set of conditions, with its headline and its footnotes."""
    for section in sections(records, options, answers):
        console.print(_section_report(section, console))


def _section_report(section: Section, console: Console) -> RenderableType:
    title = Text.assemble((section.model, "bold cyan"), "  ", (headline(section), "bold"))
    parts: list[RenderableType] = [title, Text(" ".join(remarks(section)), style="dim")]
    if section.cells:
        parts += _results_that_fit(section, console)
    if section.failures:
        parts.append(_failures(section.failures))
    if flips(section):
        parts += [Text("Answers against full precision: right → wrong (−), wrong → right (+)"), _flips(section)]
    parts += [Text(f"· {note}", style="dim") for note in notes(section)]
    return Group(*parts, "")


def record_report(record: Record) -> RenderableType:
    """Everything that is known of one cell, apart from its items."""
    spec = record.spec
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("cell", record.cell_id),
        ("status", STATUS_WORDS[record.status] + (f": {record.reason}" if record.reason else "")),
        ("model", f"{spec.model} ({spec.model_sha256[:12]})"),
        ("provenance", record.model.provenance if record.model else ABSENT),
        ("evaluated in", f"{spec.compute_dtype} on {spec.device}, seed {spec.seed}"),
        ("machine", f"{record.environment.cpu}, {record.environment.threads} threads"),
        ("revision", record.environment.git_revision or ABSENT),
        ("finished", f"{record.finished_at:%Y-%m-%d %H:%M:%S %Z}"),
    ):
        facts.add_row(Text(name, style="dim"), escape(value))
    parts: list[RenderableType] = [Text(spec.label, style="bold"), facts]
    if record.metrics:
        parts.append(_metrics(record))
    if record.phases:
        parts.append(_phases(record))
    return Group(*parts)


def comparison_report(a: Record, b: Record, differences: Sequence[Difference]) -> RenderableType:
    """The metrics of two cells side by side; the verdict is on B."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("task")
    for name in ("A", "B", "B − A", "95 % interval", "p (Holm)", "flips"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("B is")
    for d in differences:
        verdict = Text(d.verdict, style=VERDICT_STYLES.get(d.verdict, ""))
        if d.reason == UNPAIRED:
            verdict.append(" *", style="dim")
        elif d.reason or d.pairs:
            verdict.append(f" ({d.reason or f'{d.pairs} pairs'})", style="dim")
        numbers = [number(value) for value in (d.a, d.b, d.difference)]
        numbers += [_span(d.interval), _p(d.p_corrected)]
        numbers.append(f"−{d.flips.to_wrong} +{d.flips.to_right}" if d.flips else "")
        table.add_row(d.name, d.task or "", *numbers, d.unit, verdict)
    title = Text.assemble(("A ", "dim"), (a.spec.label, "bold"), ("   B ", "dim"), (b.spec.label, "bold"))
    footnote = f"* {UNPAIRED}\n" if any(d.reason == UNPAIRED for d in differences) else ""
    return Group(title, table, Text(footnote, style="dim"))


def _span(interval: Interval | None) -> str:
    return ABSENT if interval is None else f"[{number(interval.low)}, {number(interval.high)}]"


def _p(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _flips(section: Section) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("method", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    for standing in section.standings:
        table.add_column(task_name(standing.task), justify="right", no_wrap=True)
    for cell, texts in flips(section):
        table.add_row(cell.record.spec.method, cell.record.spec.scheme, *texts)
    return table


def _results_that_fit(section: Section, console: Console) -> list[RenderableType]:
    """The table, without its least telling columns where the terminal is too narrow, and which those are."""
    shown, dropped = columns(section), list[str]()
    table = _results(section, shown)
    for title in DROP_ORDER:
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
            break
        dropped += [title] if any(column.title == title for column in shown) else []
        shown = [column for column in shown if column.title != title]
        table = _results(section, shown)
    if not dropped:
        return [table]
    note = f"Not shown in {console.width} columns: {', '.join(dropped)}. Widen the terminal, or see the page.\n"
    return [table, Text(note, style="dim")]


def _results(section: Section, shown: Sequence[Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("method", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    for column in shown:
        table.add_column("\n".join(filter(None, (column.title, column.about))), justify="right")
    winners = [best(column, section) for column in shown]
    for cell in section.cells:
        texts = []
        for column, winner in zip(shown, winners, strict=True):
            reading = column.read(cell)
            text = Text(reading.text if reading else ABSENT, style="" if reading else "dim", no_wrap=True)
            if cell.record.cell_id in winner:
                text.stylize("bold green")
            if reading and reading.stderr is not None:
                text.append(f" ±{reading.stderr:.1f}", style="dim")
            texts.append(text)
        spec = cell.record.spec
        table.add_row(spec.method, spec.scheme, *texts, style="italic" if cell.is_reference else "")
    return table


def _failures(failures: Sequence[Record]) -> Table:
    table = Table.grid(padding=(0, 2))
    for record in failures:
        status = Text(STATUS_WORDS[record.status], style="yellow" if record.status == "refused" else "red")
        table.add_row(record.spec.method, scheme_words(record), status, escape(record.reason or ABSENT))
    return table


def _metrics(record: Record) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, justify in (
        ("metric", "left"),
        ("value", "right"),
        ("± stderr", "right"),
        ("95 % interval", "right"),
        ("n", "right"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    for name in ("unit", "task", "protocol"):
        table.add_column(name)
    for m in record.metrics:
        n = f"{m.n:,}" if m.n is not None else ABSENT
        figures = [number(m.value), number(m.stderr), _span(accuracy_interval(record, m)), n]
        table.add_row(m.name, *figures, m.unit, m.task or "", escape(m.protocol or ""))
        if m.name == "chance" and m.task is not None and (found := above_chance(record, m.task)):
            figures = [number(found.value), number(found.stderr), _span(found.interval), n]
            table.add_row("above chance", *figures, m.unit, m.task, "(accuracy − chance) / (1 − chance)")
    return table


def _phases(record: Record) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("phase")
    for name in ("seconds", "peak MB"):
        table.add_column(name, justify="right")
    table.add_column("")
    for phase in record.phases:
        peak = f"{phase.peak_rss_bytes / 1e6:,.0f}" if phase.peak_rss_bytes is not None else ABSENT
        table.add_row(phase.name, f"{phase.seconds:.2f}", peak, "shared" if phase.shared else "")
    return table
