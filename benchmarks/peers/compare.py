"""Evaluates every result in the exchange folder with one evaluator, and prints them side by side.

    python benchmarks/peers/compare.py FOLDER --windows 10

Perplexity and divergence are computed by `slmquant.tasks`, in float32, with the dequantized weights in a plain
transformers model, compared with the exported model. Scores are saved next to the weights and measured once.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from exchange import Run
from safetensors.torch import load_file
from transformers import PreTrainedModel

from slmquant.model.sources.load import load
from slmquant.store.record import TaskSpec
from slmquant.tasks import resolve
from slmquant.tasks.common.contract import EvalContext

COLUMNS = ("perplexity", "kl_mean", "top1_agreement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", default="wikitext2")
    parser.add_argument("--windows", type=int, default=10)
    given = parser.parse_args()
    spec = TaskSpec(name=given.task, limit=given.windows)
    loaded = load(str(given.folder / "model"))
    context = EvalContext(
        model=loaded.model,
        dtype=torch.float32,
        tokenizer=loaded.tokenizer,
        model_sha256=loaded.sha256,
        cache_dir=given.folder / "cache",
        is_reference=True,
        reference_head=loaded.model.get_output_embeddings().weight.detach().clone(),
    )
    full = scores(context, spec, given.folder / "cache" / f"{spec}.json")
    rows = []
    for file in sorted(given.folder.glob("results/*/run.json")):
        put_(loaded.model, file.with_name("weights.safetensors"))
        kept = file.with_name(f"{str(spec).replace(':', '-')}-{file.stat().st_mtime_ns}.json")
        rows.append((Run(**json.loads(file.read_text())), scores(replace(context, is_reference=False), spec, kept)))
    rows.sort(key=lambda row: (row[0].bits, row[0].symmetric, row[1]["perplexity"]))
    print_table(str(spec), full["perplexity"], rows)


def put_(model: PreTrainedModel, weights: Path) -> None:
    """Load the weights of a result into `model`; tied weights may be missing in it."""
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    remarks = model.load_state_dict(tensors, strict=False)
    tied = set(model.all_tied_weights_keys)
    if missing := set(remarks.missing_keys) - tied:
        raise SystemExit(f"{weights} lacks {len(missing)} parameters, e.g. {min(missing)}")
    if remarks.unexpected_keys:
        raise SystemExit(f"{weights} holds {remarks.unexpected_keys[0]}, which the model does not have")


def scores(context: EvalContext, spec: TaskSpec, kept: Path) -> dict[str, float]:
    """The task's figures by name of the metric, measured once and then read from `kept`."""
    if not kept.exists():
        metrics = resolve(spec).run(context, spec).metrics
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({metric.name: metric.value for metric in metrics}), encoding="utf-8")
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def print_table(task: str, full: float, rows: list[tuple[Run, dict[str, float]]]) -> None:
    print(f"{task}, full precision {full:.3f}")
    head = f"{'result':44}{'library':26}" + "".join(f"{name:>16}" for name in COLUMNS)
    print(head + f"{'seconds':>10}{'peak MB':>10}{'load':>6}  settings")
    for run, found in rows:
        figures = "".join(f"{found[name]:16.4f}" for name in COLUMNS)
        times = f"{run.quantize_s:10.1f}{run.peak_rss_bytes / 1e6:10.0f}{run.load_before:6.1f}"
        settings = " ".join(f"{key}={value}" for key, value in run.settings.items())
        print(f"{run.name:44}{run.library:26}{figures}{times}  {settings} {run.dtype}")


if __name__ == "__main__":
    main()
