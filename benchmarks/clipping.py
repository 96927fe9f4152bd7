"""Effect of AWQ's search for clipped ranges on RTN by kind of linear: the search's objective, and the actual loss.

    python benchmarks/clipping.py stories15m --schemes W4A16g64 W3A16g64

The search minimises the squared error that each group alone adds to the output, `Σ e_g H_gg e_gᵀ`. The actual loss of a
linear is `e H eᵀ`, in which errors of different groups add up or cancel. Both are printed relative to those without
clipping, under inputs that calibration did not use, as geometric means over the linears of a kind; then the number of
linears whose loss falls. `weighed` searches with tokens weighted by the inverse of their energy. The last row of a
scheme has the divergence of the whole model, minus that of RTN.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from rich.table import Table
from torch import Tensor
from variants import Reading, add_options, bench_of, conditions, console

from slmquant import methods
from slmquant.calib.capture import capture
from slmquant.calib.statistics import InputStatistics, Statistic
from slmquant.core.affine import Grid
from slmquant.core.clip import clipped, group_losses
from slmquant.core.hessian import Weighting
from slmquant.methods.awq import ClippedNearest
from slmquant.model.computing.grids import grid_of
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.schemes import parse


@dataclass(frozen=True)
class Shares:
    """Losses with clipping relative to those without: the search's sum over groups, and the actual loss."""

    by_groups: float
    whole: float


def shares(W: Tensor, grid: Grid, seen: InputStatistics, unseen: InputStatistics, weighting: Weighting) -> Shares:
    """Losses of clipped nearest rounding, relative to nearest rounding without clipping."""
    H = unseen.weighted("uniform")
    plain, narrow = (W - grid.rounded(W, affine) for affine in (None, clipped(W, seen.weighted(weighting), grid)))
    size = min(grid.group_size, W.shape[1])
    by_groups = [float(group_losses(error, H, size).sum()) for error in (plain, narrow)]
    whole = [float(((error @ H) * error).sum()) for error in (plain, narrow)]
    return Shares(by_groups[1] / by_groups[0], whole[1] / whole[0])


def mean(values: list[float]) -> str:
    """The geometric mean, as text."""
    return f"{float(torch.tensor(values, dtype=torch.float64).log().mean().exp()):.3f}"


WEIGHTINGS: tuple[Weighting, ...] = ("uniform", "energy")


def main() -> None:
    """Print a row for each scheme and kind of linear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, ["W4A16g64", "W3A16g64"])
    given = parser.parse_args()
    bench = bench_of(given)
    relations = discover(bench.model)
    wanted: tuple[Statistic, ...] = ("hessian", "hessian_energy")
    seen = capture(bench.model, relations, bench.calibration, wanted).statistics
    unseen = capture(bench.model, relations, bench.windows, wanted).statistics
    heads = ("scheme", "linears", "by groups", "loss", "falls at", "weighed: loss", "falls at", "KL, less RTN's")
    table = Table(*heads)
    for scheme in given.schemes:
        weights = parse(scheme).weights
        if weights is None:
            parser.error(f"{scheme} rounds no weights")
        grid = grid_of(weights)
        plain = bench.read("rtn", methods.load("rtn"), scheme)
        whole = bench.read("rtn", replace(methods.load("rtn"), rounding=ClippedNearest()), scheme)
        if not isinstance(plain, Reading) or not isinstance(whole, Reading):
            parser.error(f"RTN is refused at {scheme}")
        found: dict[tuple[str, Weighting], list[Shares]] = defaultdict(list)
        for group in relations.groups:
            for name in group.linears:
                W, kind = weight_at(bench.model, name).detach().float(), name.rpartition(".")[2]
                for weighting in WEIGHTINGS:
                    first = group.linears[0]
                    found[kind, weighting].append(shares(W, grid, seen[first], unseen[first], weighting))
        for kind in dict.fromkeys(kind for kind, _ in found):
            row = [scheme, kind, mean([each.by_groups for each in found[kind, "uniform"]])]
            for weighting in WEIGHTINGS:
                losses = [each.whole for each in found[kind, weighting]]
                row += [mean(losses), f"{sum(loss < 1 for loss in losses)} of {len(losses)}"]
            table.add_row(*row)
        table.add_row(scheme, "all", "", "", "", "", "", f"{whole.less(plain)} of {plain.divergence}")
    console().print(conditions(given))
    console().print(table)


if __name__ == "__main__":
    main()
