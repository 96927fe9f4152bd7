"""Profile of calibration, compared with what the machine can do: a bound for every method with Hessians.

    python benchmarks/calibration_cost.py smollm2-135m-instruct --samples 16

Prints the seconds of matrix products (linears and Hessians), of attention and of everything else in one calibration
pass, the operations that the products need and their rate, and the rate of a bare bfloat16 product of this machine.
"""

from __future__ import annotations

import argparse
import time

import torch
from machine import product_rate
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from slmquant.calib.capture import capture
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.sources.load import load

PANELS = 10 / 16
"""Share of a Hessian that is computed; the rest follows from symmetry (see `core.hessian`)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--samples", type=int, default=16, help="windows of 512 tokens")
    given = parser.parse_args()
    loaded = load(given.model)
    model, relations = loaded.model, discover(loaded.model)
    windows = calibration_windows(loaded.tokenizer, load_corpus("wikitext2_train"), given.samples, 512, 0)
    linears = sum(weight_at(model, name).numel() for group in relations.groups for name in group.linears)
    squares = sum(weight_at(model, group.linears[0]).shape[1] ** 2 for group in relations.groups)
    multiply_in_(model, torch.bfloat16)
    capture(model, relations, windows[:4], {"hessian"})
    rate = product_rate()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        started = time.perf_counter()
        capture(model, relations, windows, {"hessian"})
        total = time.perf_counter() - started
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    products = spent.get("aten::mm", 0.0) + spent.get("aten::addmm", 0.0)
    attention = sum(seconds for key, seconds in spent.items() if "attention" in key)
    operations = 2 * windows.numel() * (linears + PANELS * squares)
    table = Table("part", "s", "share", title=f"{given.model}, {given.samples} windows of 512, Hessians")
    rest = total - products - attention
    for name, seconds in {"products": products, "attention": attention, "all else": rest, "total": total}.items():
        table.add_row(name, f"{seconds:.1f}", f"{seconds / total:.0%}")
    Console().print(table)
    print(f"products: {operations / products / 1e9:.0f} GFLOP/s; a bare product: {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
