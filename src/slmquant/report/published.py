"""Fill the tables of documents from published cells, so that no number is typed by hand.

    python -m slmquant.report.published README.md docs/*.md

A table is written between two comments; the first says what it shows:

    <!-- cells results/published/weights.jsonl scheme=W4A16g64 -->
    <!-- pairs results/published/weights.jsonl gptq/W4A16g64 gptq_sink/W4A16g64, awq/W4A16g64 autoround/W4A16g64 -->
    <!-- report results/published/demo.jsonl -->
    <!-- notes results/published/demo.jsonl -->
    <!-- models results/published/paper-here.jsonl -->
    <!-- engines results/published/paper-here-engines.jsonl -->
    <!-- printed results/published/gguf_reach.json -->
    <!-- costs results/published/weights.jsonl scheme=W4A16g64 -->
    <!-- principles results/published/*.jsonl -->
    <!-- experiments results/published/questions.json shares W8A8KV8E8 -->
    <!-- ladder results/published/ladder/here.jsonl decode llamacpp -->
    <!-- inspected results/published/inspection.json sizes -->
    <!-- end -->

`cells` prints every matching cell of the file: measured ones by divergence, then refused and failed ones with the
reason. `model=`, `scheme=`, `method=` and `seed=` filter them. `pairs` compares two cells at a time by divergence and
loss, on every model, calibration seed and text of the file that has both. `report` is the first table that `slmquant
report` prints of the file, with all of its columns, and `notes` its footnotes: protocols, and what can and cannot be
told apart. `engines` has the report's tables of cells on engines, and of the scores of all tracks. `models` has the
scores of each method and scheme over all models. `costs` prints the time and memory of
quantizing for each measured cell among those of `cells`, cheapest first. `printed` is a table that a benchmark wrote as
JSON (`--output`), or with `differences` the lines that the benchmark prints below it. `principles` is what `slmquant
principles` prints of several files, `principles FILES in full` the evidence of each. `lab` has the effects of a
laboratory's factors, `lab FILE by cell` those in each method and scheme. `experiments` is a table of
`slmquant questions`, such as `shares` of a scheme, or the `conditions`. `ladder` is a table of `slmquant ladder`, such
as `decode` of an engine. `inspected` is a table of `slmquant inspect --json` by its key, or the `sentences`.
Differences are paired over the windows of the text, and intervals are those of `slmquant compare`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from slmquant.boundary import guarded
from slmquant.errors import SlmquantError, StoreError
from slmquant.files import atomic_file
from slmquant.report._document_factors import factors
from slmquant.report._document_inspected import inspected
from slmquant.report._document_principles import principles
from slmquant.report._document_tables import TABLES, Answers, markdown
from slmquant.report.experiments import document_table
from slmquant.report.ladder import document_ladder
from slmquant.store.experiments import read_experiments
from slmquant.store.jsonlines import read_cells
from slmquant.store.record import Record

__all__ = ["fill_in", "main"]

_PRINTED, _EXPERIMENTS, _PRINCIPLES, _INSPECTED, _LAB = "printed", "experiments", "principles", "inspected", "lab"
_LADDER = "ladder"
_OTHERS = (_PRINTED, _EXPERIMENTS, _PRINCIPLES, _INSPECTED, _LAB, _LADDER)
_BLOCK = re.compile(
    rf"(<!-- ({'|'.join((*TABLES, *_OTHERS))}) (\S+)(.*?) -->\n)(.*?)(<!-- end -->)",
    re.DOTALL,
)


def fill_in(text: str, folder: Path) -> str:
    """Return a document with its tables regenerated from the files it names, relative to `folder`.

    Raises:
        StoreError: A file cannot be read, or has no cell that a table names.
    """

    def table(found: re.Match[str]) -> str:
        opening, kind, path, wanted, _, closing = found.groups()
        if kind == _PRINTED:
            return f"{opening}{_printed(folder / path, wanted.strip())}{closing}"
        if kind == _PRINCIPLES:
            return f"{opening}{principles(folder, path, wanted.strip())}{closing}"
        if kind == _EXPERIMENTS:
            return f"{opening}{document_table(read_experiments(folder / path), wanted.strip())}{closing}"
        if kind == _INSPECTED:
            return f"{opening}{inspected(folder / path, wanted.strip())}{closing}"
        if kind == _LADDER:
            return f"{opening}{document_ladder(folder / path, wanted.strip())}{closing}"
        if kind == _LAB:
            return f"{opening}{factors(folder / path, wanted.strip())}{closing}"
        return f"{opening}{TABLES[kind](*_read(folder / path), wanted.strip())}{closing}"

    return _BLOCK.sub(table, text)


def _printed(path: Path, wanted: str) -> str:
    """A benchmark's table with its conditions, or the lines below it."""
    with guarded(lambda why: f"{path} cannot be read: {why}; run the benchmark again", StoreError):
        told = json.loads(path.read_text(encoding="utf-8"))
        if wanted == "differences":
            return "\n".join(f"- {line}" for line in told["differences"]) + "\n"
        return markdown(told["heads"], told["rows"]) + "\n" + str(told["conditions"]) + "\n"


def main(paths: Sequence[str]) -> int:
    """Fill the tables of each document; file names in them are relative to the current folder.

    Returns:
        The exit code: 0, or that of the error, which is printed on stderr.
    """
    try:
        for path in map(Path, paths):
            filled = fill_in(path.read_text(encoding="utf-8"), Path.cwd())
            with atomic_file(path) as temporary:
                temporary.write_text(filled, encoding="utf-8")
    except SlmquantError as error:
        sys.stderr.write(f"error: {path}: {error}\n")
        return error.exit_code
    return 0


@cache
def _read(path: Path) -> tuple[list[Record], Answers]:
    return read_cells(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
