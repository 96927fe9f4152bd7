"""Results as one self-contained HTML page: styles, script and plots are inline, nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from slmquant.analysis.endpoints import DEFAULT_MARGINS, Margins
from slmquant.analysis.scores import DEFAULT_OPTIONS, Score, ScoreOptions
from slmquant.analysis.standing import Answers
from slmquant.files import atomic_file
from slmquant.report._columns import ABSENT, decimal, number
from slmquant.report._headline import headline
from slmquant.report._plot import method_series, plot
from slmquant.report._sections import NO_ANSWERS, Cell, Section, sections
from slmquant.report._svg import Plot
from slmquant.report._tables import Table, over_models, tables
from slmquant.report._words import (
    STATUS_WORDS,
    definitions,
    flips,
    machine_words,
    notes,
    plans,
    remarks,
    scheme_words,
)
from slmquant.store.export import calibration_label
from slmquant.store.publication import publisher
from slmquant.store.record import DataCard, Record

GLYPHS = ("●", "■", "▲", "◆", "▼", "✚")
"""Text glyphs of the plot markers, in the same order."""


@dataclass(frozen=True)
class _Detail:
    """The details of a cell, shown when it is expanded."""

    cell: Cell
    scores: tuple[tuple[str, Score], ...]
    calibration: str | None


@dataclass(frozen=True)
class _Block:
    """What the template shows of one section."""

    section: Section
    headline: str
    remarks: list[str]
    notes: list[str]
    plots: list[Plot]
    legend: list[tuple[str, int, str]]
    tables: list[Table]
    details: list[_Detail]
    flips: list[tuple[Cell, list[str]]]
    data: list[DataCard]
    machines: list[str]
    plans: list[str]


def write_page(
    records: Sequence[Record],
    folder: Path,
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
    margins: Margins = DEFAULT_MARGINS,
) -> Path:
    """Write `index.html` into `folder` and return its path."""
    path = folder / "index.html"
    text = render(records, options, answers, margins)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render(
    records: Sequence[Record],
    options: ScoreOptions = DEFAULT_OPTIONS,
    answers: Answers = NO_ANSWERS,
    margins: Margins = DEFAULT_MARGINS,
) -> str:
    """The page as text, without local folders; deterministic for the same records."""
    here = files("slmquant.report")
    publish = publisher(records)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: publish(value) if type(value) is str else value,  # not our own `Markup`
    )
    environment.filters.update(number=number, score=_score, scheme=scheme_words)
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    return template.render(
        blocks=[_block(section) for section in sections(records, options, answers, margins)],
        over_models=over_models(records, options),
        css=Markup((here / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        definitions=definitions(options),
        status_words=STATUS_WORDS,
        absent=ABSENT,
        finished=max((record.finished_at for record in records), default=None),
        versions=sorted({record.environment.versions.get("slmquant", "") for record in records} - {""}),
    )


def _block(section: Section) -> _Block:
    series = method_series(section)
    return _Block(
        section=section,
        headline=headline(section),
        remarks=remarks(section),
        notes=notes(section),
        plots=_plots(section),
        legend=[(name, look.colour, GLYPHS[look.marker]) for name, look in series.items()],
        tables=tables(section) if section.cells else [],
        details=[_detail(cell) for cell in section.cells],
        flips=flips(section),
        data=list(dict.fromkeys(card for record in section.records for card in record.data)),
        machines=list(dict.fromkeys(machine_words(record.environment) for record in section.records)),
        plans=plans(section),
    )


def _plots(section: Section) -> list[Plot]:
    drawn = []
    for text in section.texts:
        drawn.append(plot(section, "perplexity", f"perplexity on {text}", text))
        drawn.append(plot(section, "kl_mean", f"divergence on {text}, nats", text))
    return [one for one in drawn if one is not None]


def _detail(cell: Cell) -> _Detail:
    infer = [(f"infer on {engine}", measured.scores.infer) for engine, measured in cell.engines.items()]
    return _Detail(
        cell=cell,
        scores=(
            ("perf", cell.scores.perf),
            ("perf > chance", cell.scores.perf_above_chance),
            *infer,
            ("cons", cell.scores.cons),
        ),
        calibration=calibration_label(cell.record.spec.calibration),
    )


def _score(value: float | None) -> str:
    return ABSENT if value is None else decimal(1)(value)
