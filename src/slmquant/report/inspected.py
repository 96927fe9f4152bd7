"""An inspection as files: `inspection.json` and one self-contained HTML page."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from slmquant.files import atomic_file
from slmquant.report._inspected_plots import plots_of
from slmquant.report._inspected_tables import tables_of
from slmquant.report._inspected_words import MEANINGS, sentences
from slmquant.store.inspected import Inspection

__all__ = ["render_inspection", "sentences", "tables_of", "write_inspection", "written_before"]

_DATA, _PAGE = "inspection.json", "index.html"


def written_before(folder: Path) -> bool:
    """Whether a folder holds what `write_inspection` writes, and nothing else."""
    return {path.name for path in folder.iterdir()} <= {_DATA, _PAGE}


def write_inspection(found: Inspection, folder: Path) -> tuple[Path, Path]:
    """Write the data and the page into `folder`; returns their paths."""
    data, page = folder / _DATA, folder / _PAGE
    for path, text in ((data, found.model_dump_json(indent=1) + "\n"), (page, render_inspection(found))):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return data, page


def render_inspection(found: Inspection) -> str:
    """The page as text; deterministic for the same inspection."""
    here = files("slmquant.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((here / "inspected.html").read_text(encoding="utf-8"))
    return template.render(
        found=found,
        sentences=sentences(found),
        plots=plots_of(found),
        tables=tables_of(found),
        meanings=MEANINGS,
        css=Markup((here / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
    )
