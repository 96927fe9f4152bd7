"""Speed of perplexity and divergence on WikiText-2, compared with the most that this machine can do.

The measure is the rate of a plain bfloat16 matrix product. Operations are those that the model needs: linears, causal
attention, heads. The full-precision model is run once with one head, and over some windows again with two, for the
noise floor of divergences; every other cell is run once, with its own head and that of the full-precision model.

"Bound" is the rate that would be reached if linears ran at the rate of the bfloat16 product, attention and heads at
their own rates in the shapes of this model and in the compute mode, and everything else (norms, rotary embedding,
activations, log-sums) took no time. The second table says where the time of a cell goes, from a run of one window
under torch's profiler.

    python benchmarks/text_speed.py --windows 4
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from machine import Operations, operations_per_token, product_rate
from printed import write_printed
from rich.console import Console
from rich.table import Table
from time_by_kind import TimeByKind, time_by_kind
from transformers import PreTrainedModel

from slmquant import tasks
from slmquant.machine.environment import environment, usable_cores
from slmquant.machine.meters import peak_rss_bytes
from slmquant.machine.process import Failure, run_isolated
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.computing.modes import MODES, ComputeMode, attending_in
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.load import load
from slmquant.progress import Progress, Silent
from slmquant.store.record import ComputeDtype, TaskSpec
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.texts.noise_floor import NOISE_FLOOR_WINDOWS
from slmquant.tasks.common.texts.perplexity import logit_rows

WINDOW = 2048
SECONDS = 2.0
"""Seconds of measuring each rate."""


@dataclass(frozen=True)
class Job:
    """Windows to measure in a compute mode."""

    model: str
    windows: int
    dtype: ComputeDtype
    scratch: Path


@dataclass(frozen=True)
class Rates:
    """Operations per second of each part alone, in the shapes of the model."""

    product: float
    attention: float
    head: float


@dataclass(frozen=True)
class Row:
    """Results of one of the two runs."""

    name: str
    seconds: float
    operations: float
    bound_seconds: float
    peak_rss_bytes: int
    rates: Rates


def measure(job: Job, progress: Progress) -> tuple[list[Row], TimeByKind]:
    """Measure the full-precision model, then a cell that is compared with it, and where the time of a cell goes."""
    torch.set_num_threads(usable_cores())
    loaded = load(job.model)
    work = operations_per_token(loaded.model, WINDOW)
    mode = MODES[job.dtype]
    rates = part_rates(loaded.model, work, mode)
    multiply_in_(loaded.model, mode.linears)
    OutputHead(loaded.model).hidden(torch.zeros(1, 512, dtype=torch.long))
    reference = EvalContext(
        loaded.model, mode, loaded.tokenizer, loaded.sha256, job.scratch, is_reference=True, progress=progress
    )
    spec = TaskSpec(name="wikitext2", limit=job.windows)
    floor = min(job.windows, NOISE_FLOOR_WINDOWS)
    rows = []
    for name, context, bodies, heads in (
        ("full precision, with its noise floor", reference, job.windows + floor, job.windows + 2 * floor),
        ("perplexity and divergence of a cell", replace(reference, is_reference=False), job.windows, 2 * job.windows),
    ):
        started = time.perf_counter()
        with attending_in(mode.attention):
            tasks.resolve(spec).run(context, spec)
        seconds = time.perf_counter() - started
        operations = WINDOW * (bodies * (work.linears + work.attention) + heads * work.head)
        bound = WINDOW * (
            bodies * (work.linears / rates.product + work.attention / rates.attention) + heads * work.head / rates.head
        )
        rows.append(Row(name, seconds, operations, bound, peak_rss_bytes(), rates))
    one = TaskSpec(name="wikitext2", limit=1)
    with attending_in(mode.attention):
        tasks.resolve(one).run(reference, one)
        kinds = time_by_kind(lambda: tasks.resolve(one).run(replace(reference, is_reference=False), one))
    return rows, kinds


@torch.inference_mode()
def part_rates(model: PreTrainedModel, work: Operations, mode: ComputeMode) -> Rates:
    """Measure the rate of each part alone, in a mode."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    operations = WINDOW * work.attention / config.num_hidden_layers
    query, key, value = (torch.randn(1, heads, WINDOW, size, dtype=mode.attention) for _ in range(3))
    head = OutputHead(model, dtype=mode.head)
    vocab, hidden = model.get_output_embeddings().weight.shape
    rows = torch.randn(logit_rows(vocab), hidden)
    attend = torch.nn.functional.scaled_dot_product_attention
    return Rates(
        product=product_rate(),
        attention=rate(lambda: attend(query, key, value, is_causal=True), operations),
        head=rate(lambda: head.logits(rows, again=True), len(rows) * work.head),
    )


def rate(run: Callable[[], object], operations: float) -> float:
    """Operations per second of a repeated function."""
    run()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        run()
        count += 1
    return count * operations / (time.perf_counter() - started)


def measured(job: Job) -> tuple[list[Row], TimeByKind]:
    """Measure in a child process."""
    found = run_isolated(measure, job, Silent())
    if isinstance(found, Failure):
        raise SystemExit(found.reason)
    return found


HEADS = ("measured", "s", "GFLOP/s", "of the product's rate", "bound", "peak MB")


def shown(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    rate = row.operations / row.seconds
    return (
        row.name,
        f"{row.seconds:.1f}",
        f"{rate / 1e9:.0f}",
        f"{rate / row.rates.product:.0%}",
        f"{row.operations / row.bound_seconds / row.rates.product:.0%}",
        f"{row.peak_rss_bytes / 1e6:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16_all", choices=MODES, help="our compute mode")
    parser.add_argument("--output", type=Path, help="also write the results here as JSON, for the documents' tables")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows, kinds = measured(Job(given.model, given.windows, given.dtype, Path(scratch)))
    machine, rates = environment(), rows[0].rates
    conditions = (
        f"{given.model}: {given.windows} windows of {WINDOW} tokens of WikiText-2 in {given.dtype}; {machine.cpu}, "
        f"{usable_cores()} of {machine.cores} cores; GFLOP/s of the parts alone: bfloat16 product "
        f"{rates.product / 1e9:.0f}, head {rates.head / 1e9:.0f}, attention {rates.attention / 1e9:.0f}"
    )
    table = Table(title=conditions)
    for head in HEADS:
        table.add_column(head)
    for row in rows:
        table.add_row(*shown(row))
    console = Console(width=None if Console().is_terminal else 180)
    console.print(table)
    console.print(kinds.table("where the time of a cell goes"))
    if given.output is not None:
        write_printed(given.output, HEADS, [*map(shown, rows)], f"{conditions}.", kinds.lines())


if __name__ == "__main__":
    main()
