"""Compares numbers and sizes of steps for OmniQuant's `fast` budget: divergence and processor seconds.

    python benchmarks/omniquant_schedule.py stories260k --schemes W3A16g32 W4A4

The sizes are those of clipping; scales and shifts take steps of half the size, as in the authors' scripts, and all fall
to 0. Each step uses two windows. The others are compared with the first row.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

from rich.table import Table
from variants import Reading, add_options, bench_of, conditions, console

from slmquant import methods
from slmquant.methods.common.learning import Schedule
from slmquant.methods.omniquant import FAST, OmniQuant, OmniSettings
from slmquant.schemes import Scheme
from slmquant.store.record import Budget

SCHEDULES = ("128@0.1", "64@0.1", "128@0.03", "128@0.05", "128@0.075", "64@0.15", "320@0.03")


def always(chosen: OmniSettings, _budget: Budget, _scheme: Scheme) -> OmniSettings:
    """These settings, whatever the budget and the scheme."""
    return chosen


def main() -> None:
    """Print a row for each schedule and scheme."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, ["W3A16g32", "W4A4"])
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES, metavar="STEPS@SIZE")
    given = parser.parse_args()
    bench, omniquant = bench_of(given), methods.load("omniquant")
    table = Table("scheme", "steps", "size", "KL, nats", "difference from the first [95 %]", "CPU s")
    for scheme in given.schemes:
        first: Reading | None = None
        for schedule in given.schedules:
            steps, size = int(schedule.split("@")[0]), float(schedule.split("@")[1])
            settings = replace(FAST, schedule=Schedule(steps, 2), clip_lr=size, scale_lr=size / 2)
            recipe = replace(omniquant, blocks=OmniQuant(settings=partial(always, settings)))
            found = bench.read("omniquant", recipe, scheme)
            if isinstance(found, str):
                table.add_row(scheme, str(steps), str(size), found)
                continue
            first = first or found
            apart = "" if found is first else found.less(first)
            table.add_row(scheme, str(steps), str(size), found.divergence, apart, f"{found.cpu_s:.0f}")
    console().print(conditions(given))
    console().print(table)


if __name__ == "__main__":
    main()
