"""Compares all strengths of SmoothQuant+: the objective of its search, and the divergence on other text.

    python benchmarks/smoothing.py stories15m --schemes W4A16g64 W3A16g64

`searched` is the divergence on calibration text, which the search of `smoothquant_plus` minimises; the next column is
the divergence on text that calibration did not use; differences are from RTN.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from rich.table import Table
from variants import Reading, add_options, bench_of, conditions, console

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.methods.common.work import Work
from slmquant.methods.smoothquant import Smoothing
from slmquant.methods.smoothquant_plus import SearchedSmoothing
from slmquant.model.discovery.relations import discover
from slmquant.progress import Silent
from slmquant.schemes import parse


def main() -> None:
    """Print a row for each scheme and strength."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, ["W4A16g64", "W3A16g64"])
    parser.add_argument("--alphas", nargs="+", type=float, default=[step / 10 for step in range(11)])
    given = parser.parse_args()
    bench = bench_of(given)
    relations = discover(bench.model)
    calibration = FreshCalibration(bench.model, bench.calibration, torch.float32, Silent())
    search = SearchedSmoothing()
    statistics = calibration.statistics(relations, search.needs)
    table = Table("scheme", "strength", "searched", "KL, nats", "difference from RTN [95 %]")
    for scheme in given.schemes:
        plain = bench.read("rtn", methods.load("rtn"), scheme)
        if not isinstance(plain, Reading):
            parser.error(plain)
        work = Work(bench.model, relations, parse(scheme), calibration)
        unsmoothed, losses = search.losses(work, statistics, given.alphas)
        table.add_row(scheme, "none", f"{unsmoothed:.4f}", plain.divergence, "")
        for alpha, loss in zip(given.alphas, losses.tolist(), strict=True):
            recipe = replace(methods.load("smoothquant_plus"), transforms=(Smoothing(alpha=alpha),))
            found = bench.read("smoothquant_plus", recipe, scheme)
            if isinstance(found, Reading):
                table.add_row(scheme, f"{alpha:g}", f"{loss:.4f}", found.divergence, found.less(plain))
    console().print(conditions(given))
    console().print(table)


if __name__ == "__main__":
    main()
