"""A campaign of faults: a small sweep is disturbed at random moments, resumed, and compared with an undisturbed one.

    python -m tests.faults.campaign --faults 207 --seed 0

Each fault gets a store and a cache of its own. After it the same command is repeated until it succeeds, as a user
would; its records must equal those of the undisturbed sweep, but for times and memory. A store that slmquant refuses to
read is restored from a copy made before the damage, as its message says. A lost node of a Ray cluster is a test of
`make test-ray` (tests/runs/test_ray.py).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slmquant.errors import StoreError
from slmquant.store import Record, Store
from slmquant.store.record import ItemOutcome
from tests.faults import kinds
from tests.faults.bench import Bench, timed
from tests.runs.made_up import make_data, make_model

_TRIES = 4
_FRESH = 0.03
"""Share of the faults whose commands are new interpreters."""
_STEADY = ("stored_bytes", "bpw", "bpw_linears", "calibration_tokens")

Outcome = dict[str, object]


@dataclass(frozen=True)
class Result:
    """The end of one fault.

    Attributes:
        kind: Kind of fault.
        what: What was done, for the table of failures.
        wrong: What is wrong afterwards; None if the records are those of an undisturbed run.
        runs: Number of commands, the disturbed one included.
    """

    kind: str
    what: str
    wrong: str | None
    runs: int


def outcome(path: Path) -> Outcome:
    """Cell → status, and all that a store says about it but times, memory and remarks."""
    with Store(path, read_only=True) as store:
        return {record.cell_id: _steady(record, store.items(record.cell_id)) for record in store.records()}


def _steady(record: Record, items: list[ItemOutcome]) -> tuple[object, ...]:
    metrics = [metric for metric in record.metrics if metric.task is not None or metric.name in _STEADY]
    return record.status, metrics, record.data, record.model, items


@dataclass(frozen=True)
class Undisturbed:
    """A sweep that nothing disturbed.

    Attributes:
        folder: Folder with the model and the data.
        outcome: What its store says.
        seconds: How long it took.
        fresh_seconds: How long it took with a new interpreter; 0 if that was not tried.
    """

    folder: Path
    outcome: Outcome
    seconds: float
    fresh_seconds: float


def undisturbed(folder: Path, fresh: bool) -> Undisturbed:
    """Make a model and data in `folder`, and run the sweep; with `fresh`, with a new interpreter, too.

    Raises:
        RuntimeError: It fails, or the two differ.
    """
    make_model(folder)
    make_data(folder)
    fork = Bench(folder, folder / "fork")
    seconds, fresh_seconds = timed(fork), 0.0
    found = outcome(fork.store)
    if fresh:
        new = Bench(folder, folder / "new", fresh=True)
        fresh_seconds = timed(new)
        if outcome(new.store) != found:
            raise RuntimeError("the records of a new interpreter differ from those of a fork")
    return Undisturbed(folder, found, seconds, fresh_seconds)


def disturb(name: str, number: int, seed: int, whole: Undisturbed) -> Result:
    """Disturb one sweep, resume it and compare.

    Args:
        name: Kind of the fault.
        number: Its number among those of its kind.
        seed: Seed of the campaign.
        whole: The undisturbed run.
    """
    draw = random.Random(f"{seed} {name} {number}")
    fault = kinds.KINDS[name]
    fresh = whole.fresh_seconds > 0 and draw.random() < _FRESH
    duration_s = whole.fresh_seconds if fresh else whole.seconds
    with tempfile.TemporaryDirectory(prefix="slmquant-fault-") as scratch:
        tries, what = 0, None
        try:
            while what is None:
                bench = Bench(whole.folder, Path(scratch) / str(tries), fresh, duration_s)
                tries, what = tries + 1, fault(bench, draw)
            code = _resumed(bench)
        except TimeoutError as hung:
            return Result(name, what or "while it was disturbed", str(hung), bench.runs)
        return Result(name, what, _wrong(code, bench, whole.outcome), bench.runs)


def _resumed(bench: Bench) -> int:
    """Repeat the command until it succeeds; its last exit code."""
    code = 0
    for _ in range(_TRIES):
        code = bench.run()[0]
        if code == 0:
            break
        if code == StoreError.exit_code and bench.backup.exists():
            bench.restore()
    return code


def _wrong(code: int, bench: Bench, whole: Outcome) -> str | None:
    """What is wrong with a sweep that was disturbed and resumed; None if nothing is."""
    *before, last = bench.said()
    said = "".join([*before, last])
    if "Traceback" in last or "a bug in slmquant" in said:  # before, a cell without memory may have printed its own
        return f"a traceback: {said.strip()}"
    if code != 0:
        return f"exit code {code} after {_TRIES} tries: {said.strip()}"
    found = outcome(bench.store)
    if found.keys() != whole.keys():
        return f"{len(found)} cells instead of {len(whole)}"
    different = [cell for cell in whole if found[cell] != whole[cell]]
    return f"other numbers in {', '.join(different)}" if different else None


def campaign(faults: int, seed: int, names: Sequence[str], tell: Callable[[Result], None]) -> list[Result]:
    """Run a campaign; every kind of fault takes its turn."""
    with tempfile.TemporaryDirectory(prefix="slmquant-faults-") as folder:
        whole = undisturbed(Path(folder), fresh=True)
        results = []
        for number in range(faults):
            results.append(disturb(names[number % len(names)], number // len(names), seed, whole))
            tell(results[-1])
        return results


def main() -> None:
    """Run a campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=207, help="number of faults")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--kind", choices=kinds.KINDS, action="append", help="only this kind; may be repeated")
    arguments = parser.parse_args()
    console = Console()
    results = campaign(
        arguments.faults,
        arguments.seed,
        arguments.kind or list(kinds.KINDS),
        lambda result: console.print(f"{result.kind}: {result.what}: {result.wrong or 'as undisturbed'}", markup=False),
    )
    by_kind: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_kind[result.kind].append(result)
    table = Table("fault", "times", "as undisturbed", "commands", box=None)
    for kind, ended in by_kind.items():
        right = sum(result.wrong is None for result in ended)
        table.add_row(kind, str(len(ended)), str(right), str(sum(result.runs for result in ended)))
    console.print(table)
    sys.exit(any(result.wrong is not None for result in results))


if __name__ == "__main__":
    main()
