"""What plan, isolation and store cost for a cell, and how fast a large store is read.

    python benchmarks/sweep_overhead.py --records 100000

- Per cell: `runner.run` over cells of a model of two layers, minus the same work in this process. Processes are warm:
  the fork server has imported everything. A cell has three processes: its own, and two that repeat its quantization.
- Store: invented records with 30 metrics each are listed, filtered and reported; seconds of each.

Wall time beside processor time of this process and its children; on a busy machine only the latter tells anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slmquant.places import Places
from slmquant.progress import Silent
from slmquant.runs.plan import make_plan
from slmquant.runs.runner import run
from slmquant.runs.work import CellJob, CellResult, run_cell
from slmquant.store import Record, Store
from slmquant.store.record import CellSpec

_ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def timed(table: Table, name: str, count: int = 1) -> Iterator[None]:
    """Add a row with the wall and processor seconds of a block, divided by `count`."""
    started, cpu = time.perf_counter(), _cpu_s()
    yield
    wall = (time.perf_counter() - started) / count
    table.add_row(name, f"{wall:.3f}", f"{(_cpu_s() - cpu) / count:.3f}")


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cells(table: Table, folder: Path, methods: tuple[str, ...], schemes: tuple[str, ...]) -> None:
    """Time the cells of a tiny model through the runner and in this process."""
    from tests.runs.made_up import make_data, make_model

    model, data = make_model(folder), make_data(folder)
    os.environ["SLMQUANT_CACHE"] = str(folder / "cache")
    plan = make_plan(
        {"models": [str(model)], "methods": methods, "schemes": schemes, "tasks": ["wikitext2:2"], "dtype": "float32"}
    )
    warm = plan.model_copy(update={"methods": ("rtn",), "schemes": ("W8A16",)})
    with Store(folder / "warm.sqlite") as store:
        specs = [record.spec for record in run(warm, store, data_dir=data).records]
    run_cell(CellJob(specs[-1], None, Places(data)), Silent())  # imports
    with Store(folder / "s.sqlite") as store:
        count = len(methods) * len(schemes)
        with timed(table, "a cell through the runner", count):
            records = run(plan, store, data_dir=data).records
    quantized = [record.spec for record in records if not record.spec.is_reference]
    with timed(table, "the same work in this process", count):
        for spec in quantized:
            _in_process(spec, Places(data))


def _in_process(spec: CellSpec, places: Places) -> CellResult:
    return run_cell(CellJob(spec, None, places), Silent())


def large_store(table: Table, folder: Path, count: int) -> None:
    """Time what reads a store of `count` records, as commands of their own."""
    path = folder / "large.sqlite"
    with Store(path) as store:
        store._connection.execute("PRAGMA synchronous = OFF")  # writing it is not what is timed
        for record in many(count):
            store.put(record)
    for words in (
        ("list", "--json"),
        ("list", "--method", "gptq", "--status", "failed", "--json"),
        ("report", "--output", str(folder / "report"), "--model", "invented-0"),
    ):
        with timed(table, f"slmquant {' '.join(words[:4])}, {count:,} records"):
            subprocess.run(
                [sys.executable, "-m", "slmquant", *words, "--store", str(path)],
                stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip


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
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--schemes", default="W8A16,W6A16,W5A16,W4A16")
    arguments = parser.parse_args()
    sys.path.insert(0, str(_ROOT))  # for what tests make up
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    table = Table("what", "wall s", "CPU s", box=None)
    with tempfile.TemporaryDirectory() as name:
        cells(table, Path(name), ("rtn",), tuple(arguments.schemes.split(",")))
        large_store(table, Path(name), arguments.records)
    Console().print(table)


if __name__ == "__main__":
    main()
