"""Compares ways to cache the full-precision model's results for later cells: space, time and error of each.

    python benchmarks/reference_cache.py smollm2-135m-instruct --windows 2

Ways: final hidden states in float32, bfloat16, and float16 with a power of two per token (the head is run again for
each cell); the k most probable tokens with their log-probabilities, and one bucket for the rest; all logits in
bfloat16. For two quantized models it prints, per way:

- bytes per token on disk;
- processor seconds per 1,000 tokens, over all threads, to score a cell from its final hidden states: its own head,
  reading the cached file (from the operating system's memory), and the comparison; the median over blocks of 128
  tokens;
- the error of mean KL, mean reverse KL, top-1 and top-5 agreement, against float64 sums over exact float32 logits.

The noise floor is printed as well: an error well below it does not matter. With one bucket for the rest, KL is never
too large (the log-sum inequality): the loss is the divergence inside the bucket, times its probability.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from slmquant.calib.calibration import NoCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.core.divergence import TOP_K, compare_, log_normalize_, next_token_nll
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.load import load
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.tasks.common.texts.noise_floor import rounded_hidden
from slmquant.tasks.common.texts.reference import pack, unpack

SCHEMES = ("W4A16g64", "W8A8")
BLOCK = 128
ROWS = 8
"""Rows of logits that are compared at a time, as in `core.divergence.compare_`."""

Figures = Tensor
"""`(4, tokens)`: KL, reverse KL, top-1 and top-5 agreement of each token."""


@dataclass(frozen=True)
class Way:
    """A way to cache the reference, and to score a cell with it.

    Attributes:
        name: Its name in the table.
        keep: Computes the tensors to save from final hidden states.
        score: Computes figures from the saved tensors, the cell's hidden states and the true next tokens.
    """

    name: str
    keep: Callable[[Tensor], dict[str, Tensor]]
    score: Callable[[dict[str, Tensor], Tensor, Tensor], Figures]


def states(
    head: OutputHead, name: str, keep: Callable[[Tensor], dict[str, Tensor]], read: Callable[..., Tensor]
) -> Way:
    """Final hidden states, from which the head computes logits again."""

    def score(kept: dict[str, Tensor], hidden: Tensor, targets: Tensor) -> Figures:
        return _figures(head.logits(read(**kept)), head.logits(hidden), targets)

    return Way(f"states, {name}", keep, score)


def all_logits(head: OutputHead) -> Way:
    """Every logit, in bfloat16."""

    def score(kept: dict[str, Tensor], hidden: Tensor, targets: Tensor) -> Figures:
        return _figures(kept["logits"].float(), head.logits(hidden), targets)

    return Way("logits, bfloat16", lambda hidden: {"logits": head.logits(hidden).bfloat16()}, score)


def top(head: OutputHead, k: int) -> Way:
    """The k most probable tokens, and the probability of all others as one."""

    def keep(hidden: Tensor) -> dict[str, Tensor]:
        values, indices = log_normalize_(head.logits(hidden)).topk(k)
        return {"log_probs": values, "indices": indices.int()}

    def score(kept: dict[str, Tensor], hidden: Tensor, targets: Tensor) -> Figures:
        logits = head.logits(hidden)
        parts = zip(
            logits.split(ROWS), targets.split(ROWS), *(kept[name].split(ROWS) for name in sorted(kept)), strict=True
        )
        return torch.cat([_bucketed(*part) for part in parts], dim=1)

    return Way(f"top {k} + rest", keep, score)


def _bucketed(logits: Tensor, targets: Tensor, indices: Tensor, log_p: Tensor) -> Figures:
    log_normalize_(logits)
    next_token_nll(logits, targets)
    log_q = logits.gather(1, indices.long())
    p, q = log_p.exp(), log_q.exp()
    # Float32 sums to 1 within 1e-6; a smaller rest counts as 1e-6.
    rest_p, rest_q = ((1 - x.sum(1)).clamp_min(1e-6) for x in (p, q))
    difference, rest_difference = log_p - log_q, (rest_p / rest_q).log()
    own = logits.topk(TOP_K).indices
    shared = (indices[:, :TOP_K, None] == own[:, None, :]).sum((1, 2)) / TOP_K
    return torch.stack(
        [
            (p * difference).sum(1) + rest_p * rest_difference,
            -(q * difference).sum(1) - rest_q * rest_difference,
            (indices[:, 0] == own[:, 0]).float(),
            shared,
        ]
    )


def _figures(reference: Tensor, other: Tensor, targets: Tensor) -> Figures:
    found = compare_(reference, other, targets).divergence
    return torch.stack([found.forward, found.reverse, found.agrees.float(), found.top_share])


def exact(reference: Tensor, other: Tensor) -> Figures:
    """The figures in float64, by their definitions."""
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    difference = p - q
    first, second = reference.topk(TOP_K).indices, other.topk(TOP_K).indices
    return torch.stack(
        [
            (p.exp() * difference).sum(-1),
            -(q.exp() * difference).sum(-1),
            (first[:, 0] == second[:, 0]).double(),
            (first[:, :, None] == second[:, None, :]).sum((1, 2)) / TOP_K,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--corpus", default="wikitext2_test")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048)
    arguments = parser.parse_args()
    tokenizer = load(arguments.model).tokenizer
    ids = text_tokens(tokenizer, load_corpus(arguments.corpus).text)
    ids = ids[: arguments.windows * arguments.tokens].view(arguments.windows, arguments.tokens)
    cells = {scheme: _quantized_hidden(arguments.model, scheme, ids) for scheme in SCHEMES}
    print(f"{arguments.model}, {arguments.corpus}, {ids.numel()} tokens, {torch.get_num_threads()} threads")
    with torch.inference_mode():
        measure(arguments.model, ids, cells)


def measure(source: str, ids: Tensor, cells: dict[str, Tensor]) -> None:
    """Print the tables for cells with the given final hidden states."""
    loaded = load(source)
    targets = ids[:, 1:].flatten()
    multiply_in_(loaded.model, torch.bfloat16)
    head = OutputHead(loaded.model)
    reference = _hidden(head.hidden, ids)
    rounded = _hidden(lambda window: rounded_hidden(loaded.model, head, window), ids)
    ways = [
        states(head, "float32", lambda h: {"hidden": h}, lambda hidden: hidden),
        states(head, "bfloat16", lambda h: {"hidden": h.bfloat16()}, lambda hidden: hidden.float()),
        states(head, "float16", lambda h: dict(zip(("codes", "scale"), pack(h), strict=True)), unpack),
        *(top(head, k) for k in (64, 256, 1024)),
        all_logits(head),
    ]
    truth: dict[str, list[Figures]] = {name: [] for name in (*SCHEMES, "floor")}
    found: dict[tuple[str, str], list[Figures]] = {(way.name, scheme): [] for way in ways for scheme in SCHEMES}
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    sizes = {way.name: 0 for way in ways}
    for start in range(0, len(targets), BLOCK):
        part = slice(start, min(start + BLOCK, len(targets)))
        logits = head.logits(reference[part])
        for name, hidden in (*cells.items(), ("floor", rounded)):
            truth[name].append(exact(logits, head.logits(hidden[part])))
        for way in ways:  # in turn, so that other load affects all alike
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "kept.safetensors"
                save_file(kept := way.keep(reference[part]), path)
                sizes[way.name] += sum(t.nbytes for t in kept.values())
                for scheme, hidden in cells.items():
                    started = time.process_time()
                    found[way.name, scheme].append(way.score(load_file(path), hidden[part], targets[part]))
                    seconds[way.name].append((time.process_time() - started) / len(targets[part]))
    means = {name: torch.cat(parts, dim=1).mean(dim=1) for name, parts in truth.items()}
    for name, (kl, reverse, top1, top5) in means.items():
        print(f"{name:10} KL {kl:.6f}  reverse KL {reverse:.6f}  top-1 {top1:.4f}  top-5 {top5:.4f}")
    Console(width=140).print(_table(ways, found, means, sizes, seconds, len(targets)))


def _quantized_hidden(source: str, scheme: str, ids: Tensor) -> Tensor:
    quantized = quantize_(load(source).model, "rtn", parse(scheme), NoCalibration(), dtype=torch.bfloat16)
    head = OutputHead(quantized.model)
    return _hidden(head.hidden, ids)


def _hidden(run: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """Final hidden states of every prediction, `(predictions, hidden)`."""
    return torch.cat([run(window[None])[0, :-1] for window in ids])


def _table(
    ways: list[Way],
    found: dict[tuple[str, str], list[Figures]],
    means: dict[str, Tensor],
    sizes: dict[str, int],
    seconds: dict[str, list[float]],
    tokens: int,
) -> Table:
    table = Table("cached", "bytes/token", "CPU s/1000 tokens", "cell", "KL error", "reverse error", "top-1", "top-5")
    for way in ways:
        for scheme in SCHEMES:
            error = torch.cat(found[way.name, scheme], dim=1).double().mean(dim=1) - means[scheme]
            cost = f"{1000 * statistics.median(seconds[way.name]):.2f}"
            shown = (f"{value:+.1e}" for value in error.tolist())
            table.add_row(way.name, f"{sizes[way.name] / tokens:,.0f}", cost, scheme, *shown)
    return table


if __name__ == "__main__":
    main()
