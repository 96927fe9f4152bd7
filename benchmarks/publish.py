"""Runs plans and keeps what they measured in `results/published`, one file of JSON lines for each plan.

    python benchmarks/publish.py plans/weights.yaml plans/stories.yaml [--data DIR]

    python benchmarks/publish.py plans/demo.yaml --store results/slmquant.sqlite

The second form runs nothing: it keeps what a store holds, such as the one that `make demo` leaves.
    python benchmarks/publish.py plans/constants.yaml --seeds 0 --seeds 1 --seeds 2

The third runs a plan once for each seed of calibration, which draws other windows, into one file.
What such a file holds already is not measured again, so a plan may be run in pieces, on one machine or on several;
each row says on which. `python -m slmquant.report.published` then fills the tables of the documents in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from slmquant.runs.plan import Plan, make_plan, read_plan_fields
from slmquant.runs.runner import Event, run
from slmquant.store.inputs import apart
from slmquant.store.jsonlines import restore, write_cells
from slmquant.store.sqlite import Store

FOLDER = Path("results") / "published"


def main(
    plans: list[Path],
    data: Annotated[Path | None, typer.Option(help="folder of data, tried first")] = None,
    store: Annotated[Path | None, typer.Option(help="keep what this store holds; run nothing")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="seeds of calibration, instead of the plan's own")] = None,
) -> None:
    """Run each plan in a store of its own, and write its file after every cell."""
    folder = data or (Path(found) if (found := os.environ.get("SLMQUANT_DATA")) else None)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in plans:
        published = FOLDER / f"{path.stem}.jsonl"
        if store is not None:
            with Store(store, read_only=True) as measured:
                _keep(measured, published)
        else:
            plan = make_plan(read_plan_fields(path))
            for seed in seeds or [plan.calibration.seed]:
                drawn = plan.calibration.model_copy(update={"seed": seed})
                _run(plan.model_copy(update={"calibration": drawn}), published, folder)


def _run(plan: Plan, published: Path, data: Path | None) -> None:
    with Store(published.with_suffix(".sqlite")) as store:
        if published.exists():
            print(f"{restore(published, store)} cells taken from {published}")

        def tell(event: Event) -> None:
            reason = "" if event.record is None or event.record.reason is None else f" ({event.record.reason})"
            print(f"{event.done}/{event.total} {event.text}{reason}", flush=True)
            if event.record is not None:
                _keep(store, published)

        run(plan, store, data_dir=data, tell=tell)


def _keep(store: Store, published: Path) -> None:
    """Write every row of a store that is of the present code, and what it answered."""
    records = store.records()
    aside = apart(records)
    records = [record for record in records if record.cell_id not in aside]
    write_cells(records, {record.cell_id: store.items(record.cell_id) for record in records}, published)


if __name__ == "__main__":
    typer.run(main)
