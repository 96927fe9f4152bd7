"""What `slmquant report` prints of published cells, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slmquant.analysis.scores import DEFAULT_OPTIONS
from slmquant.errors import StoreError
from slmquant.report._document_cells import ABSENT, Answers, markdown
from slmquant.report._sections import Section, sections
from slmquant.report._tables import Field, Table, over_models, tables
from slmquant.report._words import notes
from slmquant.store.record import Record


def report(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """The first table of `slmquant report`, one per section."""
    return _by_model(_whole(records, answers, wanted), _table)


def report_engines(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """The tables of `slmquant report` about cells on engines: files, memory, speed; and the scores of the three tracks.

    Raises:
        StoreError: No cell was measured on an engine, or `wanted` is not empty.
    """
    found = [section for section in _whole(records, answers, wanted) if section.engines]
    if not found:
        raise StoreError("no cell was measured on an engine; publish cells of a plan with `engines`")
    return _by_model(found, lambda section: "\n".join(map(_markdown_of, tables(section)[1:])))


def report_notes(records: Sequence[Record], answers: Answers, wanted: str) -> str:
    """The footnotes of `slmquant report`: models, protocols, and what can and cannot be told apart."""
    return _by_model(_whole(records, answers, wanted), _notes)


def over_models_table(records: Sequence[Record], answers: Answers, wanted: str) -> str:  # noqa: ARG001  # same signature as the other tables
    """The scores of each method and scheme over all models.

    Raises:
        StoreError: No method was measured on two models, or `wanted` is not empty.
    """
    _no_filter(wanted)
    summary = over_models(records, DEFAULT_OPTIONS)
    if summary is None:
        raise StoreError("no method and scheme was measured on two models; publish cells of a second model")
    return markdown(summary.heads, summary.rows) + "\n" + "\n".join(summary.notes) + "\n"


def _whole(records: Sequence[Record], answers: Answers, wanted: str) -> list[Section]:
    _no_filter(wanted)
    return sections(records, answers=answers)


def _no_filter(wanted: str) -> None:
    if wanted:
        raise StoreError(f"a report shows the whole file and takes no filter; remove {wanted!r}")


def _by_model(found: Sequence[Section], text: Callable[[Section], str]) -> str:
    """The text of each section, below its model's name if there are several."""
    if len(found) == 1:
        return text(found[0])
    return "\n".join(f"**{section.model}**\n\n{text(section)}" for section in found)


def _table(section: Section) -> str:
    return _markdown_of(tables(section)[0])


def _markdown_of(table: Table) -> str:
    heads = [*table.heads, *(column.title for column in table.columns)]
    return markdown(heads, [[*row.heads, *map(_field, row.fields)] for row in table.rows])


def _notes(section: Section) -> str:
    return "".join(f"- {note}\n" for note in notes(section))


def _field(field: Field) -> str:
    if field.reading is None:
        return ABSENT
    text = f"**{field.reading.text}**" if field.is_best else field.reading.text
    if field.reading.interval is not None:
        return f"{text} {field.reading.interval}"
    return text if field.reading.stderr is None else f"{text} ± {field.reading.stderr:.2g}"
