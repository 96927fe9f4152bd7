"""Checks slmquant on an NVIDIA GPU with a real model: perplexity, GPTQ, and a method that learns.

    python benchmarks/gpu_check.py [--model smollm2-135m-instruct] [--device cuda] [--windows 8]

Runs three small plans as `slmquant bench --device cuda` would and prints a row for each cell: perplexity and
divergence on WikiText-2, seconds and memory of quantizing. Below the table it prints the loss of the full-precision
model over 512 tokens, on the CPU and on the GPU. It takes about four minutes on one GPU.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.model.sources.load import load
from slmquant.runs.plan import make_plan
from slmquant.runs.rows import Event
from slmquant.runs.runner import run
from slmquant.store.record import Record
from slmquant.store.sqlite import Store

PLANS: tuple[dict[str, object], ...] = (
    {"methods": ["rtn", "gptq", "gptq_mse"], "schemes": ["W4A16g64"]},
    {"methods": ["quarot", "spinquant"], "schemes": ["W4A4"], "budget": "fast"},
    {"methods": ["spinquant"], "schemes": ["W4A4"], "budget": "paper"},
)
COLUMNS = {
    "perplexity": ("perplexity", 1.0, ".3f"),
    "KL, nats": ("kl_mean", 1.0, ".4f"),
    "quantize, s": ("quantize_s", 1.0, ".1f"),
    "peak RAM, MB": ("quantize_peak_rss_bytes", 1e-6, ".0f"),
}


def main(
    model: str = "smollm2-135m-instruct",
    device: str = "cuda",
    windows: int = 8,
    data: Annotated[Path | None, typer.Option(help="local folder of data, tried first")] = None,
) -> None:
    """Run the plans on a device and print their results."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device found; run on a machine with one, or with --device cpu")
    folder = data or (Path(found) if (found := os.environ.get("SLMQUANT_DATA")) else None)
    console = Console()
    table = Table(title=torch.cuda.get_device_name() if device.startswith("cuda") else device)
    for head in ("method", "scheme", "budget", "in", *COLUMNS, "status"):
        table.add_column(head)
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store.sqlite") as store:
        seen: set[str] = set()
        for fields in PLANS:
            plan = make_plan({"models": [model], "tasks": [f"wikitext2:{windows}"], "device": device, **fields})
            for record in run(plan, store, data_dir=folder, tell=_say).records:
                if record.cell_id not in seen:
                    seen.add(record.cell_id)
                    table.add_row(*_row(record))
    console.print(table)
    here, there = (_loss(model, where, folder) for where in ("cpu", device))
    console.print(
        f"loss of the first 512 tokens: {here:.6f} on cpu, {there:.6f} on {device}, difference {there - here:+.1e}"
    )


def _say(event: Event) -> None:
    print(f"{event.done}/{event.total} {event.text}", flush=True)


def _row(record: Record) -> list[str]:
    spec = record.spec
    figures = []
    for name, factor, form in COLUMNS.values():
        metric = record.metric(name)
        figures.append("" if metric is None else format(metric.value * factor, form))
    status = record.status if record.reason is None else f"{record.status}: {record.reason}"
    return [spec.method, spec.scheme, spec.budget or "", spec.compute_dtype, *figures, status]


@torch.inference_mode()
def _loss(source: str, device: str, data: Path | None) -> float:
    """Mean loss of the full-precision model, in float32, over the first 512 tokens of WikiText-2's test split."""
    loaded = load(source, device=device)
    ids = text_tokens(loaded.tokenizer, load_corpus("wikitext2_test", data).text)[None, :512].to(device)
    return float(loaded.model(input_ids=ids, labels=ids, use_cache=False).loss)


if __name__ == "__main__":
    typer.run(main)
