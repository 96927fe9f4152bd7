"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from slmquant.analysis.chance import above_chance, accuracy_interval
from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.analysis.intervals import Interval
from slmquant.analysis.scores import DEFAULT_OPTIONS, ScoreOptions
from slmquant.analysis.standing import Answers
from slmquant.boundary import printable
from slmquant.report._columns import ABSENT, number
from slmquant.report._headline import NBSP, headline
from slmquant.report._phases import phase_notes, phase_table
from slmquant.report._sections import NO_ANSWERS, Section, sections
from slmquant.report._tables import Table, over_models, tables
from slmquant.report._words import STATUS_WORDS, flips, notes, remarks, scheme_words
from slmquant.store.record import Record, task_name


def print_report(
    records: Sequence[Record],
    console: Console,
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
    margins: Margins = DEFAULT_MARGINS,
) -> None:
    """Print the tables of each model and set of conditions, with headline and footnotes."""
    for section in sections(records, options, answers, margins):
        console.print(_section_report(section, console))
    summary = over_models(records, options)
    if summary is not None:
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
        for place, head in enumerate(summary.heads):
            table.add_column(head, justify="left" if place < 2 else "right")
        for row in summary.rows:
            table.add_row(*map(plain, row))
        notes_below = (Text(printable(f"· {note}"), style="dim") for note in summary.notes)
        console.print(Group(Text("Over models", style="bold cyan"), table, *notes_below, ""))


def _section_report(section: Section, console: Console) -> RenderableType:
    sentence = printable(headline(section), keep=NBSP)
    title = Text.assemble((printable(section.model), "bold cyan"), "  ", (sentence, "bold"))
    parts: list[RenderableType] = [title, Text(printable(" ".join(remarks(section))), style="dim")]
    if section.cells:
        first, *others = tables(section)
        parts += _fit_to_width(first, console)
        for table in others:
            parts += [Text(table.title), *_fit_to_width(table, console)]
    if section.failures:
        parts.append(_failures(section.failures))
    if flips(section):
        parts += [
            Text("Changed answers compared with full precision: right → wrong (−), wrong → right (+)"),
            _flips(section),
        ]
    parts += [Text(printable(f"· {note}"), style="dim") for note in notes(section)]
    return Group(*parts, "")


def record_report(record: Record, others: Sequence[Record] = ()) -> RenderableType:
    """Everything recorded about one cell, except its items.

    Args:
        record: The cell.
        others: Cells of the same store, which may share work with it.
    """
    spec = record.spec
    facts = RichTable.grid(padding=(0, 2))
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
        facts.add_row(Text(name, style="dim"), plain(value))
    parts: list[RenderableType] = [Text(printable(spec.label), style="bold"), facts]
    if record.metrics:
        parts.append(_metrics(record))
    if record.phases:
        parts.append(phase_table(record))
        parts += [Text(printable(f"· {note}"), style="dim") for note in phase_notes(record, others)]
    return Group(*parts)


def plain(text: str) -> Text:
    """Untrusted text without markup or control characters."""
    return Text(printable(text))


def span(interval: Interval | None) -> str:
    """The ends of an interval in brackets, or a dash."""
    return ABSENT if interval is None else f"[{number(interval.low)}, {number(interval.high)}]"


def _flips(section: Section) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("method", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    for standing in section.accuracies:
        table.add_column(plain(task_name(standing.task)), justify="right", no_wrap=True)
    for cell, texts in flips(section):
        table.add_row(plain(cell.method), plain(cell.record.spec.scheme), *texts)
    return table


def _fit_to_width(table: Table, console: Console) -> list[RenderableType]:
    """Drop the least important columns until the table fits the terminal; a note names the dropped ones."""
    dropped: list[str] = []
    for title in ("", *table.drop_order):
        dropped += [title] if any(column.title == title for column in table.columns) else []
        drawn = _drawn(table.without(dropped))
        if Measurement.get(console, console.options.update(width=10_000), drawn).maximum <= console.width:
            break
    if not dropped:
        return [drawn]
    note = f"Not shown in {console.width} columns: {', '.join(dropped)}. Widen the terminal, or open the HTML page.\n"
    return [drawn, Text(note, style="dim")]


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    for head in table.heads:
        drawn.add_column(head, no_wrap=True)
    for column in table.columns:
        drawn.add_column(Text("\n").join(plain(one) for one in (column.title, column.about) if one), justify="right")
    for row in table.rows:
        texts = []
        for field in row.fields:
            reading = field.reading
            text = Text(reading.text if reading else ABSENT, style="" if reading else "dim", no_wrap=True)
            if field.is_best:
                text.stylize("bold green")
            if reading and reading.interval is not None:
                text.append(f" {reading.interval}", style="dim")
            if reading and reading.stderr is not None:
                text.append(f" ±{reading.stderr:.1f}", style="dim")
            texts.append(text)
        drawn.add_row(*map(plain, row.heads), *texts, style="italic" if row.cell.is_reference else "")
    return drawn


def _failures(failures: Sequence[Record]) -> RichTable:
    table = RichTable.grid(padding=(0, 2))
    for record in failures:
        status = Text(STATUS_WORDS[record.status], style="yellow" if record.status == "refused" else "red")
        table.add_row(plain(record.spec.method), plain(scheme_words(record)), status, plain(record.reason or ABSENT))
    return table


def _metrics(record: Record) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
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
        figures = [number(m.value), number(m.stderr), span(accuracy_interval(record, m)), n]
        table.add_row(plain(m.name), *figures, plain(m.unit), plain(m.task or ""), plain(m.protocol or ""))
        if m.name == "chance" and m.task is not None and (found := above_chance(record, m.task)):
            figures = [number(found.value), number(found.stderr), span(found.interval), n]
            table.add_row("above chance", *figures, plain(m.unit), plain(m.task), "(accuracy − chance) / (1 − chance)")
    return table
