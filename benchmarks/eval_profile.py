"""Profile of our backend on a task: time of matrix products, of attention, and of everything else.

    python benchmarks/eval_profile.py mmlu --items 500

Explains the figures of `eval_speed.py`. Shares are of the time of torch's own operations, as its profiler reports them;
Python's time comes on top, and is the rest of the printed wall time.
"""

from __future__ import annotations

import argparse

import torch
from eval_speed import WARM_UP, Job, first_requests
from rich.console import Console
from time_by_kind import TimeByKind, time_by_kind

from slmquant.files import cache_dir
from slmquant.machine.environment import usable_cores
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.computing.modes import MODES, attending_in
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.lm_eval.backend import ContextLM


def shares(job: Job) -> TimeByKind:
    """Where the time of one task goes in our backend."""
    torch.set_num_threads(usable_cores())
    mode = MODES[job.dtype]
    loaded = load(job.model)
    context = EvalContext(loaded.model, mode, loaded.tokenizer, loaded.sha256, cache_dir(), progress=Silent())
    requests = first_requests(job, context)
    multiply_in_(loaded.model, mode.linears)
    backend = ContextLM(context, job.task)
    backend.loglikelihood(requests[:WARM_UP])
    with attending_in(mode.attention):
        return time_by_kind(lambda: backend.loglikelihood(requests))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="mmlu")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--dtype", default="bfloat16_all", choices=MODES, help="our compute mode")
    given = parser.parse_args()
    found = shares(Job(given.model, given.task, given.items, given.dtype, None))
    title = f"{given.model}: {given.task}, first {given.items} items, {usable_cores()} cores"
    Console().print(found.table(title))


if __name__ == "__main__":
    main()
