"""What one sweep saves: the cells of a plan in one command, against each of them in a command of its own.

    python benchmarks/shared_work.py stories15m --output results/published/shared_work.json

A fresh command has an empty store and an empty cache, so it measures the full-precision model again, captures its
statistics again and imports everything again. Processor time is that of the command and of all its processes. With
`--fresh 8` only so many of the fresh commands are run, spread evenly over the cells, and stand for all.

A cell's own work is the processor time of its phases load, quantize and evaluate, with the loads and quantizations that
are repeated for the median; no sweep can share it, so it bounds what sharing can save.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from printed import write_printed
from rich.console import Console
from rich.table import Table
from spent import Spent

from slmquant.machine.environment import environment
from slmquant.model.sources.resolve import resolve
from slmquant.runs.repeats import RUNS
from slmquant.store import Record, Store

METHODS = ("rtn", "gptq", "gptq_mse", "awq", "smoothquant", "quarot")
SCHEMES = ("W8A8", "W4A8", "W4A16g64", "W3A16g64")
HEADS = ("what", "commands", "wall s", "CPU s", "CPU s per cell")

_COMMAND = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from spent import spent_until_now
from slmquant.cli._app import run
code = run(sys.argv[2:])
print(spent_until_now().cpu_s, file=open(sys.argv[1], "w"))
sys.exit(code)
"""
"""Runs `slmquant` and writes its processor time, with that of its processes, to a file."""


def bench(
    model: Path, methods: Sequence[str], schemes: Sequence[str], options: Sequence[str]
) -> tuple[Spent, list[Record]]:
    """Run `slmquant bench` with nothing stored or cached; returns its cost and its cells without the reference.

    Raises:
        SystemExit: The command failed.
    """
    with tempfile.TemporaryDirectory(prefix="slmquant-shared-") as name:
        folder = Path(name)
        words = ["bench", str(model), "--methods", ",".join(methods), "--schemes", ",".join(schemes)]
        words += ["--store", str(folder / "s.sqlite"), "--output", str(folder / "report"), *options]
        command = [sys.executable, "-c", _COMMAND, str(Path(__file__).parent), str(folder / "cpu"), *words]
        started = time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | {"SLMQUANT_CACHE": str(folder / "cache")}, capture_output=True, encoding="utf-8",
            check=False,
        )  # fmt: skip
        wall_s = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        with Store(folder / "s.sqlite", read_only=True) as store:
            records = [record for record in store.records() if not record.spec.is_reference]
        return Spent(wall_s, float((folder / "cpu").read_text())), records


def own_work_s(record: Record) -> float:
    """Processor seconds of what a cell shares with no other."""
    seconds = 0.0
    for phase in record.phases:
        if not phase.shared:
            times = max(1, len(phase.repeated)) if phase.name == "quantize" else 1
            seconds += (phase.cpu_s or 0.0) * times
    load = next((phase.cpu_s or 0.0 for phase in record.phases if phase.name == "load"), 0.0)
    repeated = any(phase.repeated for phase in record.phases)
    return seconds + (load * (RUNS - 1) if repeated else 0.0)


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="stories15m")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--tasks", default="wikitext2:2")
    parser.add_argument("--samples", default="16")
    parser.add_argument("--seq-len", default="256")
    parser.add_argument("--dtype", default="float32", help="auto measures the choice again in each command")
    parser.add_argument("--fresh", type=int, help="run only so many of the fresh commands")
    parser.add_argument("--output", type=Path, help="also write the table here as JSON, for the documents' tables")
    given = parser.parse_args()
    model, methods, schemes = resolve(given.model), given.methods.split(","), given.schemes.split(",")
    options = ["--tasks", given.tasks, "--samples", given.samples, "--seq-len", given.seq_len, "--dtype", given.dtype]
    pairs = list(product(methods, schemes))
    wanted = min(given.fresh or len(pairs), len(pairs))
    chosen = [pairs[number * len(pairs) // wanted] for number in range(wanted)]
    shared, records = bench(model, methods, schemes, options)
    fresh = Spent()
    for method, scheme in chosen:
        fresh += bench(model, [method], [scheme], options)[0]
    per_cell, count = fresh / len(chosen), len(pairs)
    own_s = sum(own_work_s(record) for record in records)
    ratio = shared.cpu_s / (per_cell.cpu_s * count)
    rows = [
        ["one sweep", "1", f"{shared.wall_s:.0f}", f"{shared.cpu_s:.0f}", f"{shared.cpu_s / count:.1f}"],
        ["fresh commands", str(len(chosen)), f"{fresh.wall_s:.0f}", f"{fresh.cpu_s:.0f}", f"{per_cell.cpu_s:.1f}"],
        ["the cells' own work", "", "", f"{own_s:.0f}", f"{own_s / count:.1f}"],
    ]
    lines = [
        f"The sweep takes {ratio:.2f} of the processor time of {count} fresh commands"
        + ("" if len(chosen) == count else f", of which {len(chosen)} were run")
        + f"; the cells' own work alone is {own_s / (per_cell.cpu_s * count):.2f} of it."
    ]
    table = Table(*HEADS, box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print(*lines)
    if given.output is not None:
        machine = environment()
        conditions = f"{given.model}, {count} cells, {' '.join(options)}; {machine.cpu}, {machine.threads} threads."
        write_printed(given.output, HEADS, rows, conditions, lines)


if __name__ == "__main__":
    main()
