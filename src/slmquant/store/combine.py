"""Combine the cells of several stores and published files, and write them as a store, JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slmquant.boundary import guarded
from slmquant.errors import OutputError, StoreError
from slmquant.files import atomic_file
from slmquant.store.export import rows
from slmquant.store.jsonlines import read_cells, write_cells
from slmquant.store.publication import published, publisher
from slmquant.store.record import ItemOutcome, Record
from slmquant.store.sqlite import Store

__all__ = [
    "JSON_LINES",
    "PARQUET",
    "STORES",
    "Combined",
    "add_cells",
    "best_cells",
    "best_of",
    "cells",
    "combine",
    "opened",
    "write_parquet",
]

STORES = (".sqlite", ".db")
"""Endings of result stores."""
JSON_LINES = ".jsonl"
"""Ending of published cells, one JSON object per line; see `store.jsonlines`."""
PARQUET = ".parquet"
"""Ending of a table with one row per cell, which is written and not read."""

Cell = tuple[Record, Sequence[ItemOutcome]]


@dataclass(frozen=True)
class Combined:
    """What `combine` did.

    Attributes:
        cells: Number of cells in the output.
        added: Cells of the sources that the output did not have.
        replaced: Cells of the output that a source had in a better state.
        repeated: Cells of the sources that were left out because the output has the same or a better one.
    """

    cells: int
    added: int
    replaced: int
    repeated: int


def combine(sources: Sequence[Path], output: Path) -> Combined:
    """Write the cells of all sources to `output`; its ending decides the format.

    Of several records of one cell the finished one is kept (`ok` or `refused` before failures, which a plan tries
    again), then the one that finished last; so the result does not depend on the order of the sources. An output that
    is a store keeps its own cells by the same rule.

    Raises:
        StoreError: A source cannot be read, or the output is being written by another process.
        OutputError: The output's ending is unknown.
    """
    if output.suffix in STORES:
        with Store(output) as store:
            return add_cells(store, sources)
    if output.suffix not in (JSON_LINES, PARQUET):
        endings = ", ".join((*STORES, JSON_LINES, PARQUET))
        raise OutputError(f"output {output} ends in {output.suffix or 'nothing'!r}; expected one of {endings}")
    chosen, read = best_cells(sources)
    records = [record for record, _ in chosen]
    if output.suffix == PARQUET:
        write_parquet(records, output)
    else:
        write_cells(records, {record.cell_id: items for record, items in chosen}, output)
    return Combined(len(chosen), len(chosen), 0, read - len(chosen))


def best_cells(sources: Iterable[Path]) -> tuple[list[Cell], int]:
    """The cells of all sources, of several records of one cell the one that `combine` keeps; and the number read.

    Raises:
        StoreError: A source does not exist or cannot be read.
    """
    read = list(cells(sources))
    return best_of(read), len(read)


def best_of(read: Iterable[Cell]) -> list[Cell]:
    """Each cell once, of several records the one that `combine` keeps, in the order in which they finished."""
    kept: dict[str, Cell] = {}
    for cell in read:
        before = kept.get(cell[0].cell_id)
        if before is None or _rank(cell[0]) > _rank(before[0]):
            kept[cell[0].cell_id] = cell
    return sorted(kept.values(), key=lambda cell: (cell[0].finished_at, cell[0].cell_id))


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Write `store.export.rows`, one row per cell, as a Parquet file; texts name no local folder.

    Raises:
        OutputError: The path is not writable.
    """
    import pyarrow
    import pyarrow.parquet

    publish = publisher(records)
    table = pyarrow.Table.from_pylist([published(row, publish) for row in rows(records)])
    with atomic_file(path) as temporary, guarded(lambda why: f"cannot write {path}: {why}", OutputError):
        pyarrow.parquet.write_table(table, temporary)


def add_cells(store: Store, sources: Iterable[Path]) -> Combined:
    """Add the cells of all sources to an open store, by the rule of `combine`.

    Raises:
        StoreError: A source cannot be read, or the store is read-only.
    """
    known = {record.cell_id: record for record in store.records()}
    added = replaced = repeated = 0
    for record, items in cells(sources):
        before = known.get(record.cell_id)
        if before is not None and _rank(record) <= _rank(before):
            repeated += 1
            continue
        store.put(record, items)
        known[record.cell_id] = record
        added, replaced = (added + 1, replaced) if before is None else (added, replaced + 1)
    return Combined(len(known), added, replaced, repeated)


def cells(sources: Iterable[Path]) -> Iterator[Cell]:
    """Every record of the sources with its items, source by source.

    Raises:
        StoreError: A source does not exist or cannot be read.
    """
    for path in sources:
        if path.suffix == JSON_LINES:
            records, answers = read_cells(path)
            yield from ((record, answers[record.cell_id]) for record in records)
            continue
        if not path.is_file():
            raise StoreError(f"no result store at {path}; expected a store or a file of published cells ({JSON_LINES})")
        with Store(path, read_only=True) as store:
            yield from ((record, store.items(record.cell_id)) for record in store.records())


@contextmanager
def opened(sources: Iterable[Path]) -> Iterator[tuple[list[Record], Callable[[str], Sequence[ItemOutcome]]]]:
    """The best record of each cell by the rule of `combine`, as they finished, and a function that reads its items.

    Items are read while the sources are open, of the cells that are asked for.

    Raises:
        StoreError: A source does not exist or cannot be read.
    """
    best: dict[str, Record] = {}
    items: dict[str, Callable[[str], Sequence[ItemOutcome]]] = {}
    with ExitStack() as stack:
        for path in sources:
            if path.suffix == JSON_LINES:
                records, answers = read_cells(path)
                read: Callable[[str], Sequence[ItemOutcome]] = answers.__getitem__
            else:
                store = stack.enter_context(Store(path, read_only=True))
                records, read = store.records(), store.items
            for record in records:
                before = best.get(record.cell_id)
                if before is None or _rank(record) > _rank(before):
                    best[record.cell_id], items[record.cell_id] = record, read
        in_order = sorted(best.values(), key=lambda record: (record.finished_at, record.cell_id))
        yield in_order, lambda cell_id: items[cell_id](cell_id)


def _rank(record: Record) -> tuple[bool, float]:
    return record.is_finished, record.finished_at.timestamp()
