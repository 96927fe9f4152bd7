"""A table of an inspection, as requested by a comment of a document (see `published`)."""

from __future__ import annotations

from pathlib import Path

from slmquant.boundary import guarded
from slmquant.errors import StoreError
from slmquant.report._document_cells import markdown
from slmquant.report._inspected_tables import tables_of
from slmquant.report._inspected_words import sentences
from slmquant.store.inspected import Inspection

__all__ = ["inspected"]

_SENTENCES = "sentences"


def inspected(path: Path, wanted: str) -> str:
    """The table of that key, or what is remarkable about the model as a list of sentences.

    Raises:
        StoreError: The file is no inspection, or has no such table.
    """
    with guarded(lambda why: f"{path} cannot be read: {why}; run slmquant inspect again", StoreError):
        found = Inspection.model_validate_json(path.read_text(encoding="utf-8"))
    if wanted == _SENTENCES:
        return "\n".join(f"- {sentence}" for sentence in sentences(found)) + "\n"
    tables = tables_of(found)
    if wanted not in tables:
        raise StoreError(f"{path} has no table {wanted!r}; expected {_SENTENCES}, {', '.join(tables)}")
    return markdown(tables[wanted].heads, tables[wanted].rows)
