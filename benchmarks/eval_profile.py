"""Profile of our backend on a task: time of matrix products, of attention, and of everything else.

    python benchmarks/eval_profile.py mmlu --items 500

Explains the figures of `eval_speed.py`. Shares are of the time of torch's own operations, as its profiler reports them;
Python's time comes on top, and is the rest of the printed wall time.
"""

from __future__ import annotations

import argparse
import time

import torch
from eval_speed import WARM_UP, Job, first_requests
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from slmquant.files import cache_dir
from slmquant.machine.environment import usable_cores
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.computing.modes import MODES, attending_in
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.lm_eval.backend import ContextLM

KINDS = {
    "products of linears and head": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_attention_math"),
}
OTHERS = "all else in torch"


def shares(job: Job) -> tuple[dict[str, float], float]:
    """Seconds by kind of operation, and wall seconds, of one task through our backend."""
    torch.set_num_threads(usable_cores())
    mode = MODES[job.dtype]
    loaded = load(job.model)
    context = EvalContext(loaded.model, mode, loaded.tokenizer, loaded.sha256, cache_dir(), progress=Silent())
    requests = first_requests(job, context)
    multiply_in_(loaded.model, mode.linears)
    backend = ContextLM(context, job.task)
    backend.loglikelihood(requests[:WARM_UP])
    started = time.perf_counter()
    with attending_in(mode.attention), profile(activities=[ProfilerActivity.CPU]) as profiler:
        backend.loglikelihood(requests)
        wall_s = time.perf_counter() - started
    found = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key in names), OTHERS)
        found[kind] += event.self_cpu_time_total / 1e6
    return found, wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="mmlu")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--dtype", default="bfloat16_all", choices=MODES, help="our compute mode")
    given = parser.parse_args()
    found, wall_s = shares(Job(given.model, given.task, given.items, given.dtype, None))
    table = Table(title=f"{given.model}: {given.task}, first {given.items} items, {usable_cores()} cores")
    table.add_column("spent on")
    table.add_column("s", justify="right")
    table.add_column("share", justify="right")
    total_s = sum(found.values())
    for kind, seconds in found.items():
        table.add_row(kind, f"{seconds:.1f}", f"{seconds / total_s:.0%}")
    table.add_row("wall time under the profiler", f"{wall_s:.1f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
