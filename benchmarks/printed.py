"""Writes the table of a benchmark as JSON, from which `slmquant.report.published` fills in the documents' tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from slmquant.files import atomic_file


def write_printed(
    path: Path, heads: Sequence[str], rows: Sequence[Sequence[str]], conditions: str, lines: Sequence[str] = ()
) -> None:
    """Write a table, the conditions it was measured under, and the lines printed below it."""
    printed = {"conditions": conditions, "heads": [*heads], "rows": [[*row] for row in rows], "differences": [*lines]}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(printed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
