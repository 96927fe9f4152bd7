"""Compares scales from ranges with searched ones, under every rounding that supports both: divergence and cost.

    python benchmarks/searched_scales.py stories15m --schemes W4A16g64 W3A16g64

`range`, `mse` and `loss` are those of `core.gptq.Scales`; everything else is as in each method's paper, except that
QuaRot, whose authors search as `mse` does, is also shown without. `weighed` weights tokens by the inverse of their
energy, with a share for the first ones, as `gptq_sink` does; with `loss` these are `gptq_mse`, `gptq_sequential_mse`,
`gptaq_mse` and `autoround_mse`. Differences are paired, from the first row of each method.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from rich.table import Table
from variants import Reading, add_options, bench_of, conditions, console

from slmquant import methods
from slmquant.core.gptq import Scales
from slmquant.methods.autoround import AutoRound
from slmquant.methods.common.parts import BlockSolver
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptaq import Gptaq
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.gptq_sink import SINK_SHARE

Label = tuple[Scales, bool]
"""The source of scales, and whether tokens are weighted."""

LABELS: tuple[Label, ...] = (("range", False), ("mse", False), ("loss", False), ("range", True), ("loss", True))


def gptq_of(label: Label) -> Gptq:
    """The rounding of GPTQ that a label names."""
    scales, weighed = label
    return Gptq(weighting="energy", sink_share=SINK_SHARE, scales=scales) if weighed else Gptq(scales=scales)


def gptaq_of(label: Label) -> Gptaq:
    """The same for GPTAQ."""
    rounding = gptq_of(label)
    return Gptaq(
        weighting=rounding.weighting, sink_share=rounding.sink_share, scales=rounding.scales, embeddings=rounding
    )


def autoround_of(label: Label) -> AutoRound | None:
    """AutoRound from such a start; None if weights of tokens would change nothing."""
    if label[0] == "range":
        return None if label[1] else AutoRound()
    return AutoRound(search=gptq_of(label))


BLOCKS: Mapping[str, Callable[[Label], BlockSolver | None]] = MappingProxyType(
    {
        "gptq_sequential": lambda label: SequentialGptq(gptq_of(label)),
        "gptaq": gptaq_of,
        "quarot": lambda label: SequentialGptq(gptq_of(label)),
        "autoround": autoround_of,
    }
)
"""Method → its solver of blocks with such scales; None if there is nothing to compare."""


def recipe_of(name: str, label: Label) -> Recipe | None:
    """A method with such scales; None if there is nothing to compare."""
    if name == "gptq":
        return replace(methods.load(name), rounding=gptq_of(label))
    blocks = BLOCKS[name](label)
    return None if blocks is None else replace(methods.load(name), blocks=blocks)


def main() -> None:
    """Print a row for each scheme, method and kind of scales."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, ["W4A16g64", "W3A16g64"])
    parser.add_argument("--methods", nargs="+", default=["gptq", *BLOCKS], choices=["gptq", *BLOCKS])
    given = parser.parse_args()
    bench = bench_of(given)
    table = Table("scheme", "method", "scales", "KL, nats", "difference from the first [95 %]", "CPU s")
    for scheme in given.schemes:
        for name in given.methods:
            first: Reading | None = None
            for label in LABELS:
                if (recipe := recipe_of(name, label)) is None:
                    continue
                found = bench.read(name, recipe, scheme)
                called = f"{label[0]}, weighed" if label[1] else label[0]
                if isinstance(found, str):
                    table.add_row(scheme, name, called, found)
                    continue
                first = first or found
                apart = "" if found is first else found.less(first)
                table.add_row(scheme, name, called, found.divergence, apart, f"{found.cpu_s:.0f}")
    console().print(conditions(given))
    console().print(table)


if __name__ == "__main__":
    main()
