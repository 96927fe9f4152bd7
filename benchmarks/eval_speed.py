"""Speed of zero-shot tasks in our backend and in lm-eval's own, side by side.

    python benchmarks/eval_speed.py --items 500 --tried 6 --equal 20 --output results/published/eval_speed.json
    python benchmarks/eval_speed.py --tasks mmlu --items 100

lm-eval's backend (`HFLM`) gets, for each task, the dtype and batch size at which it is fastest here, found on the first
items; ours uses the mode that `slmquant bench` would choose where bfloat16 is fast. Every run is its own process, which
loads the model, answers a few requests to warm up, and is then timed from lm-eval's requests to their answers,
tokenization included. Items are the first of the file; of MMLU, the first whole subjects. Answers are compared in
float32 on the first `--equal` items of every task.

The possible speedup is bounded by how much less ours computes: tokens through the body and rows through the head are
counted on both sides, and "less work" is the ratio of their matrix products (without attention, norms and soft-max).
The difference between speedup and "less work" comes from the rates of computing, which are printed, too, with that of a
plain bfloat16 product, measured in between.

Perplexity and divergence have a benchmark of their own: `text_speed.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from machine import operations_per_token, product_rate
from printed import write_printed
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from slmquant.files import cache_dir
from slmquant.machine.environment import environment, usable_cores
from slmquant.machine.meters import peak_rss_bytes
from slmquant.machine.process import Failure, run_isolated
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.computing.modes import FLOAT32, MODES, attending_in
from slmquant.model.sources.load import load
from slmquant.progress import Progress, Silent
from slmquant.store.record import ComputeDtype
from slmquant.tasks.common.contract import EvalContext

TASKS = ("hellaswag", "arc_easy", "piqa", "mmlu")
BATCH_SIZES = (1, 4, 16, 64)
WARM_UP = 8
"""Number of requests answered before timing starts."""


@dataclass(frozen=True)
class Job:
    """One task through one backend.

    Attributes:
        model: Model source.
        task: Name of the task.
        items: Number of items, from the start of the file.
        dtype: For lm-eval's backend the dtype of the whole model, `float32` or `bfloat16`; for ours, the compute mode.
        batch_size: Batch size of lm-eval's backend; None for our backend.
    """

    model: str
    task: str
    items: int
    dtype: ComputeDtype
    batch_size: int | None


@dataclass(frozen=True)
class Answers:
    """Result of a job."""

    seconds: float
    peak_rss_bytes: int
    values: list[tuple[float, bool]]
    operations: float
    """Operations of the matrix products of linears and head."""
    product_rate: float
    """Operations per second of a plain bfloat16 product right after the job."""


class Counter:
    """Counts operations from the tokens through a model's body and the rows through its head."""

    def __init__(self, model: PreTrainedModel) -> None:
        work = operations_per_token(model, window=0)
        self._body, self._head = work.linears, work.head
        self.operations = 0.0
        model.get_input_embeddings().register_forward_pre_hook(self._count_body)
        model.register_forward_pre_hook(self._count_head, with_kwargs=True)

    def _count_body(self, _module: object, given: tuple[torch.Tensor]) -> None:
        self.operations += self._body * given[0].numel()

    def _count_head(self, _module: object, given: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        self.operations += self._head * (given[0] if given else named["input_ids"]).numel()


def answer(job: Job, progress: Progress) -> Answers:
    """Run one job."""
    from lm_eval.models.huggingface import HFLM

    from slmquant.tasks.common.lm_eval.backend import ContextLM

    torch.set_num_threads(usable_cores())
    mode = MODES[job.dtype]
    loaded = load(job.model, mode.linears if job.batch_size else torch.float32)
    counter = Counter(loaded.model)
    context = EvalContext(loaded.model, mode, loaded.tokenizer, loaded.sha256, cache_dir(), progress=progress)
    requests = first_requests(job, context)
    if job.batch_size:
        backend = HFLM(
            pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=job.batch_size, max_batch_size=64
        )
    else:
        multiply_in_(loaded.model, mode.linears)
        backend = ContextLM(context, job.task)
    ask = partial(backend.loglikelihood, disable_tqdm=True) if job.batch_size else backend.loglikelihood
    with attending_in(FLOAT32.attention if job.batch_size else mode.attention):
        ask(requests[:WARM_UP])
        counter.operations = 0.0
        started = time.perf_counter()
        values = ask(requests)
        seconds = time.perf_counter() - started
    return Answers(seconds, peak_rss_bytes(), values, counter.operations, product_rate())


def first_requests(job: Job, context: EvalContext) -> list[object]:
    """lm-eval's requests for the first items of a task; of a family, subject after subject."""
    from slmquant.tasks.common.lm_eval.task import LmEvalTask, _build, _quiet, find

    task = find(job.task)
    assert isinstance(task, LmEvalTask)
    requests: list[object] = []
    missing = job.items
    with _quiet():
        for subtask in _build(task, context).subtasks.values():
            if missing <= 0:
                break
            subtask.build_all_requests(limit=missing, rank=0, world_size=1)
            requests += subtask.instances
            missing -= len({instance.doc_id for instance in subtask.instances})
    return requests


def run(job: Job) -> Answers:
    """Run one job in a child process."""
    found = run_isolated(answer, job, Silent())
    if isinstance(found, Failure):
        raise SystemExit(f"{job}: {found.reason}")
    return found


def fastest(job: Job, items: int) -> Job:
    """lm-eval's backend with the dtype and batch size that are fastest on the first items."""
    trials = [
        replace(job, items=items, dtype=dtype, batch_size=size)
        for dtype in ("bfloat16", "float32")
        for size in BATCH_SIZES
    ]
    best = min(trials, key=lambda trial: run(trial).seconds)
    return replace(best, items=job.items)


HEADS = (
    "task", "lm-eval's backend", "s", "MB", "GFLOP/s", "ours: s", "MB", "GFLOP/s", "faster", "less work", "a product",
    "largest difference",
)  # fmt: skip


def compare_tasks(
    model: str, names: Sequence[str], items: int, equal: int, tried: int, dtype: ComputeDtype
) -> list[tuple[str, ...]]:
    """Rows of both backends on every task, and on all."""
    rows: list[tuple[str, ...]] = []
    all_theirs: list[Answers] = []
    all_ours: list[Answers] = []
    for name in names:
        asked = Job(model, name, items, dtype, None)
        best = fastest(asked, tried)
        ours, theirs = run(asked), run(best)
        all_ours.append(ours)
        all_theirs.append(theirs)
        rows.append(
            (
                name,
                f"{best.dtype}, batch {best.batch_size}",
                *figures(theirs),
                *figures(ours),
                *ratios([theirs], [ours]),
                f"{(ours.product_rate + theirs.product_rate) / 2e9:.0f}",
                equality(replace(asked, items=equal, dtype="float32")),
            )
        )
    seconds = [f"{sum(each.seconds for each in side):.1f}" for side in (all_theirs, all_ours)]
    return [*rows, ("all", "", seconds[0], "", "", seconds[1], "", "", *ratios(all_theirs, all_ours), "", "")]


def figures(answers: Answers) -> tuple[str, str, str]:
    """Seconds, peak megabytes, and the rate of matrix products."""
    rate = answers.operations / answers.seconds / 1e9
    return f"{answers.seconds:.1f}", f"{answers.peak_rss_bytes / 1e6:.0f}", f"{rate:.0f}"


def ratios(theirs: Sequence[Answers], ours: Sequence[Answers]) -> tuple[str, str]:
    """Ratios of their time to ours, and of their operations to ours."""
    time_ratio = sum(each.seconds for each in theirs) / sum(each.seconds for each in ours)
    work_ratio = sum(each.operations for each in theirs) / sum(each.operations for each in ours)
    return f"{time_ratio:.1f}x", f"{work_ratio:.1f}x"


def equality(job: Job) -> str:
    """Largest difference of answers in float32, and the number of different greedy verdicts."""
    ours, theirs = run(job).values, run(replace(job, batch_size=8)).values
    apart = max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    verdicts = sum(a != b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    return f"{apart:.1e} of {len(ours)} in float32" + (f", {verdicts} verdicts differ" if verdicts else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated tasks; empty for none")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--equal", type=int, default=50, help="items whose answers are compared in float32")
    parser.add_argument("--tried", type=int, default=24, help="items on which lm-eval's backend is tuned")
    parser.add_argument("--dtype", default="bfloat16_all", choices=MODES, help="our compute mode")
    parser.add_argument("--output", type=Path, help="also write the results here as JSON, for the documents' tables")
    given = parser.parse_args()
    rows = compare_tasks(given.model, given.tasks.split(","), given.items, given.equal, given.tried, given.dtype)
    machine = environment()
    conditions = (
        f"{given.model}: the first {given.items} items of each task; ours in {given.dtype}; "
        f"{machine.cpu}, {usable_cores()} of {machine.cores} cores"
    )
    table = Table(title=conditions)
    for head in HEADS:
        table.add_column(head)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)
    if given.output is not None:
        write_printed(given.output, HEADS, rows, f"{conditions}.")


if __name__ == "__main__":
    main()
