"""Effects of factors in documents."""

from __future__ import annotations

from pathlib import Path

from slmquant.analysis.factors import study
from slmquant.errors import StoreError
from slmquant.report._document_cells import markdown
from slmquant.report.factors import HEADS, by_cell, footnotes, summary
from slmquant.store.jsonlines import read_cells


def factors(path: Path, wanted: str) -> str:
    """What the published cells of a laboratory say about its factors.

    Args:
        path: Their file.
        wanted: `by cell` for the effects in each method and scheme, nothing for the summary with its footnotes.

    Raises:
        StoreError: The file cannot be read, holds no laboratory, or `wanted` is something else.
    """
    if wanted not in ("", "by cell"):
        raise StoreError(f"cannot show factors {wanted!r}; expected 'by cell' or nothing")
    records, _ = read_cells(path)
    found = study(records)
    if wanted:
        return markdown(*by_cell(found))
    return markdown(HEADS, summary(found)) + "\n" + "".join(f"- {sentence}\n" for sentence in footnotes(found))
