"""Runs plans and publishes their results in `results/published`, one JSON lines file per plan.

    python benchmarks/publish.py plans/weights.yaml plans/stories.yaml [--data DIR]
    python benchmarks/publish.py plans/demo.yaml --store results/slmquant.sqlite

The second form runs nothing: it publishes the results of a store, such as the one of `make demo`. Cells that a file
already holds are not measured again, so a plan may be run in parts, on one or several machines; each row names its
machine. Afterwards `python -m slmquant.report.published` fills in the tables of the documents.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from slmquant.runs.plan import Plan, make_plan
from slmquant.runs.plan_file import read_plan_file
from slmquant.runs.rows import Event
from slmquant.runs.runner import run
from slmquant.store.combine import add_cells
from slmquant.store.jsonlines import write_cells
from slmquant.store.outdated import apart
from slmquant.store.sqlite import Store

FOLDER = Path("results") / "published"


def main(
    plans: list[Path],
    data: Annotated[Path | None, typer.Option(help="local folder of data, tried first")] = None,
    store: Annotated[Path | None, typer.Option(help="publish this store's results; run nothing")] = None,
) -> None:
    """Run each plan in its own store, and write its file after every cell."""
    folder = data or (Path(found) if (found := os.environ.get("SLMQUANT_DATA")) else None)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in plans:
        published = FOLDER / f"{path.stem}.jsonl"
        if store is not None:
            with Store(store, read_only=True) as measured:
                _keep(measured, published)
        else:
            file = read_plan_file(path)
            _run(make_plan(file.fields, file), published, folder)


def _run(plan: Plan, published: Path, data: Path | None) -> None:
    with Store(published.with_suffix(".sqlite")) as store:
        if published.exists():
            print(f"{add_cells(store, [published]).added} cells taken from {published}")

        def tell(event: Event) -> None:
            reason = "" if event.record is None or event.record.reason is None else f" ({event.record.reason})"
            print(f"{event.done}/{event.total} {event.text}{reason}", flush=True)
            if event.record is not None:
                _keep(store, published)

        run(plan, store, data_dir=data, tell=tell)


def _keep(store: Store, published: Path) -> None:
    """Write a store's rows that are not outdated, with their items."""
    records = store.records()
    aside = apart(records)
    records = [record for record in records if record.cell_id not in aside]
    write_cells(records, {record.cell_id: store.items(record.cell_id) for record in records}, published)


if __name__ == "__main__":
    typer.run(main)
