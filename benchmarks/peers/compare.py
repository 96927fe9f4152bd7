"""Evaluates every result in the exchange folder with one evaluator, and prints them side by side.

    python benchmarks/peers/compare.py FOLDER --windows 10

Perplexity and divergence are computed by `slmquant.tasks`, in float32, with the dequantized weights in a plain
transformers model, compared with the exported model. Scores are saved next to the weights and measured once. Below the
table, the divergence of each result of ours less each peer's of the same grid, window by window.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from exchange import Run
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from transformers import PreTrainedModel

from slmquant.analysis.means import Estimate
from slmquant.analysis.multiple import holm
from slmquant.analysis.pairs import Pairs
from slmquant.machine.environment import environment
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.sources.load import load
from slmquant.store.record import ItemOutcome, Metric, TaskSpec
from slmquant.tasks import resolve
from slmquant.tasks.common.contract import EvalContext

sys.path.append(str(Path(__file__).parents[1]))
from printed import write_printed  # the benchmarks beside this folder

HEADS = ("result", "library", "perplexity", "KL, nats", "top-1 %", "seconds", "peak MB", "load", "settings")


@dataclass(frozen=True)
class Scores:
    """What a model reaches on the task.

    Attributes:
        metrics: Name → metric.
        items: Losses and divergences, window by window.
    """

    metrics: Mapping[str, Metric]
    items: Sequence[ItemOutcome]


@dataclass(frozen=True)
class Result:
    """One quantization and its scores."""

    run: Run
    scores: Scores

    @property
    def grid(self) -> tuple[int, int | None, bool]:
        """What results must share to be compared."""
        return self.run.bits, self.run.group_size, self.run.symmetric

    @property
    def is_ours(self) -> bool:
        """Whether slmquant made it."""
        return self.run.library.startswith("slmquant ")

    def less(self, other: Result) -> Estimate | None:
        """Its divergence less another's, window by window."""
        pairs = Pairs.of(self.scores.metrics["kl_mean"], other.scores.items, self.scores.items)
        return None if pairs is None else pairs.estimate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", default="wikitext2")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON file of the table, for the documents")
    given = parser.parse_args()
    spec = TaskSpec(name=given.task, limit=given.windows)
    loaded = load(str(given.folder / "model"))
    context = EvalContext(
        model=loaded.model,
        mode=FLOAT32,
        tokenizer=loaded.tokenizer,
        model_sha256=loaded.sha256,
        cache_dir=given.folder / "cache",
        is_reference=True,
        reference_head=loaded.model.get_output_embeddings().weight.detach().clone(),
    )
    full = scores(context, spec, given.folder / "cache" / f"{spec}.json")
    results = []
    for file in given.folder.glob("results/*/run.json"):
        put_(loaded.model, file.with_name("weights.safetensors"))
        kept = file.with_name(f"{str(spec).replace(':', '-')}-{file.stat().st_mtime_ns}.json")
        found = scores(replace(context, is_reference=False), spec, kept)
        results.append(Result(Run(**json.loads(file.read_text())), found))
    results.sort(key=lambda result: (result.run.bits, result.run.symmetric, result.scores.metrics["kl_mean"].value))
    cells = [row_of(result) for result in results]
    lines = list(differences(results))
    table = Table(*HEADS)
    for cell in cells:
        table.add_row(*cell)
    condition = conditions(given.folder, spec, full, results)
    console = Console()
    console.print(table, condition, *lines, sep="\n")
    if given.output is not None:
        write_printed(given.output, HEADS, cells, condition, lines)


def put_(model: PreTrainedModel, weights: Path) -> None:
    """Load the weights of a result into `model`; tied weights may be missing in it."""
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    remarks = model.load_state_dict(tensors, strict=False)
    tied = set(model.all_tied_weights_keys)
    if missing := set(remarks.missing_keys) - tied:
        raise SystemExit(f"{weights} lacks {len(missing)} parameters, e.g. {min(missing)}")
    if remarks.unexpected_keys:
        raise SystemExit(f"{weights} holds {remarks.unexpected_keys[0]}, which the model does not have")


def scores(context: EvalContext, spec: TaskSpec, kept: Path) -> Scores:
    """The task's figures, measured once and then read from `kept`."""
    if not kept.exists():
        result = resolve(spec).run(context, spec)
        content = {
            "metrics": [metric.model_dump(mode="json") for metric in result.metrics],
            "items": [item.model_dump(mode="json") for item in result.items],
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(content), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    metrics = [Metric.model_validate(metric) for metric in found["metrics"]]
    return Scores(
        {metric.name: metric for metric in metrics}, [ItemOutcome.model_validate(item) for item in found["items"]]
    )


def row_of(result: Result) -> list[str]:
    """The cells of a result's row."""
    run, found = result.run, result.scores.metrics
    divergence = found["kl_mean"]
    error = "" if divergence.stderr is None else f" ± {divergence.stderr:.4f}"
    settings = " ".join(f"{key}={value}" for key, value in run.settings.items())
    return [
        run.name,
        run.library,
        f"{found['perplexity'].value:.3f}",
        f"{divergence.value:.4f}{error}",
        f"{100 * found['top1_agreement'].value:.1f}",
        f"{run.quantize_s:.0f}",
        f"{run.peak_rss_bytes / 1e6:,.0f}",
        f"{run.load_before:.1f}",
        f"{settings} {run.dtype}",
    ]


def differences(results: Sequence[Result]) -> Iterator[str]:
    """Our divergence less a peer's on the same grid, with the ratio of their times."""
    pairs = {
        (mine.run.name, peer.run.name): (test, peer.run.quantize_s / mine.run.quantize_s)
        for mine, peer in itertools.product(results, results)
        if mine.is_ours and not peer.is_ours and mine.grid == peer.grid and (test := mine.less(peer)) is not None
    }
    corrected = holm({pair: p for pair, (test, _) in pairs.items() if (p := test.p_value()) is not None})
    for (mine_name, peer_name), (test, times) in pairs.items():
        span, p = test.interval(), corrected.get((mine_name, peer_name))
        ends = "" if span is None else f" [{span.low:+.4f}, {span.high:+.4f}]"
        verdict = "" if p is None else f", p = {p:.3g} after Holm over {len(corrected)}"
        yield f"{mine_name} less {peer_name}: {test.mean:+.4f}{ends} nats{verdict}; {times:.1f} times as fast"


def conditions(folder: Path, spec: TaskSpec, full: Scores, results: Sequence[Result]) -> str:
    """What the table was measured on."""
    threads = ", ".join(sorted({str(result.run.threads) for result in results}))
    return (
        f"{folder.name}, {spec}, full precision {full.metrics['perplexity'].value:.3f}; {environment().cpu}, "
        f"{threads} threads. ± one standard error over windows."
    )


if __name__ == "__main__":
    main()
