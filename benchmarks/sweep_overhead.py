"""What plan, isolation and store cost for a cell, and how fast a large store is read.

    python benchmarks/sweep_overhead.py --records 100000 --output results/published/sweep_overhead.json

- Per cell: `runner.run` over cells of a model of two layers, from the beginning of each cell until its row is stored,
  minus the same work in this process. Processes are warm: the server that they are forked from has imported
  everything. A cell has three: its own, and two that quantize again, because quantizing takes less than 5 s.
- Store: invented records with up to 30 metrics are listed, filtered and reported by commands of their own.

On a busy machine processor time tells more than wall time; it is that of this process and of all that ran for it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from printed import write_printed
from rich.console import Console
from rich.table import Table
from spent import Spent, spending, spent_until_now

from slmquant.machine.environment import environment
from slmquant.machine.process import run_isolated
from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.runs.inputs import DataJob, read_data
from slmquant.runs.plan import make_plan
from slmquant.runs.repeats import RUNS, run_quantize
from slmquant.runs.rows import Event
from slmquant.runs.runner import run
from slmquant.runs.work import CellJob, run_cell
from slmquant.store import Record, Store

HEADS = ("what", "wall s", "CPU s")
_ROOT = Path(__file__).resolve().parent.parent
_TIMES = 5


class CellTimes:
    """Listener to a run that adds up what its quantized cells take, from their beginning until their row is stored."""

    def __init__(self) -> None:
        self.count, self.total = 0, Spent()
        self._begun = spent_until_now()

    def __call__(self, event: Event) -> None:
        """Receive news of the run."""
        if event.begun:
            self._begun = spent_until_now()
        elif event.record is not None and not event.record.spec.is_reference:
            self.count, self.total = self.count + 1, self.total + (spent_until_now() - self._begun)


def cells(folder: Path, schemes: tuple[str, ...]) -> list[tuple[str, Spent]]:
    """Time the cells of a tiny model through the runner, the same work here, and the parts of the difference."""
    from tests.runs.made_up import make_data, make_model

    model, data = make_model(folder), make_data(folder)
    os.environ["SLMQUANT_CACHE"] = str(folder / "cache")
    plan = make_plan(
        {"models": [str(model)], "methods": ["rtn"], "schemes": schemes, "tasks": ["wikitext2:2"], "dtype": "float32"}
    )
    for name in ("warm", "timed"):
        times = CellTimes()
        with Store(folder / f"{name}.sqlite") as store:
            records = run(plan, store, data_dir=data, tell=times).records
    job = CellJob(records[-1].spec, None, Places(data))
    for _ in range(2):  # the first time imports
        with spending() as work:
            _same_work(job)
    with spending() as empty:
        for _ in range(_TIMES):
            run_isolated(read_data, DataJob((), (), None), Silent())
    with Store(folder / "rows.sqlite") as store, spending() as rows:
        for record in many(_TIMES):
            store.put(record)
    cell = times.total / times.count
    return [
        ("a cell through the runner", cell),
        ("the same work in this process", work),
        ("overhead of a cell", cell - work),
        (f"of it, {RUNS} processes that do nothing", empty / (_TIMES / RUNS)),
        ("of it, writing a row", rows / _TIMES),
    ]


def _same_work(job: CellJob) -> None:
    run_cell(job, Silent())
    for _ in range(RUNS - 1):
        run_quantize(job, Silent())


def large_store(folder: Path, count: int) -> list[tuple[str, Spent]]:
    """Time what reads a store of `count` records, and of none, as commands of their own."""
    large, empty = folder / "large.sqlite", folder / "empty.sqlite"
    Store(empty).close()
    with Store(large) as store:
        store._connection.execute("PRAGMA synchronous = OFF")  # writing it is not what is timed
        for record in many(count):
            store.put(record)
    report = ("report", "--output", str(folder / "report"), "--model", "invented-0")
    timed: list[tuple[str, Spent]] = []
    for path, words in (
        (empty, ("list",)),
        (large, ("list",)),
        (large, ("list", "--method", "gptq", "--status", "failed", "--json")),
        (large, ("list", "--model", "invented-0", "--json")),
        (large, ("list", "--json")),
        (large, report),
    ):
        with spending() as spent:
            subprocess.run(
                [sys.executable, "-m", "slmquant", *words, "--store", str(path)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
            )  # fmt: skip
        shown = " ".join(word for word in words if word not in report[1:3])
        timed.append((f"`slmquant {shown}`, {count if path == large else 0:,} records", spent))
    return timed


def many(count: int) -> Iterator[Record]:
    """Invented records: models of 12 cells each."""
    from tests import invented

    whole = [record for record in invented.benchmark() if record.status == "ok"]
    for number in range(count):
        record = whole[number % len(whole)]
        spec = record.spec.model_copy(update={"model": f"invented-{number // len(whole)}"})
        moment = record.finished_at + timedelta(seconds=number)
        yield record.model_copy(update={"spec": spec, "finished_at": moment})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--schemes", default="W8A16,W6A16,W5A16,W4A16")
    parser.add_argument("--output", type=Path, help="also write the table here as JSON, for the documents' tables")
    given = parser.parse_args()
    sys.path.insert(0, str(_ROOT))  # for what tests make up
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as name:
        timed = cells(Path(name), tuple(given.schemes.split(",")))
        timed += large_store(Path(name), given.records)
    rows = [[what, f"{spent.wall_s:.2f}", f"{spent.cpu_s:.2f}"] for what, spent in timed]
    table = Table(*HEADS, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=120, highlight=False).print(table)
    if given.output is not None:
        machine = environment()
        write_printed(given.output, HEADS, rows, f"{machine.cpu}, {machine.threads} threads, a model of two layers.")


if __name__ == "__main__":
    main()
