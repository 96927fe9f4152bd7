"""Compares float32, the whole model in bfloat16, and only the products of linears in bfloat16.

Prints perplexity on the first windows of a text, its shift from float32, and seconds; the three take turns window by
window, so that other load affects all alike.

    python benchmarks/precision.py smollm2-135m-instruct --windows 4
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.load import load


def mean_loss(head: OutputHead, window: torch.Tensor) -> float:
    hidden, targets = head.hidden(window[None])[0, :-1], window[1:]
    pairs = zip(hidden.split(512), targets.split(512), strict=True)
    return sum(float(F.cross_entropy(head.logits(h), t, reduction="sum")) for h, t in pairs) / len(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--corpus", default="wikitext2_test")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    arguments = parser.parse_args()
    plain, cast, products = load(arguments.model), load(arguments.model, torch.bfloat16), load(arguments.model)
    multiply_in_(products.model, torch.bfloat16)
    ways = {"float32": plain, "bfloat16 model": cast, "bfloat16 products": products}
    heads = {name: OutputHead(loaded.model) for name, loaded in ways.items()}
    ids = text_tokens(plain.tokenizer, load_corpus(arguments.corpus).text)
    windows = ids[: arguments.windows * arguments.tokens].view(arguments.windows, arguments.tokens)
    losses: dict[str, list[float]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for head in heads.values():
        mean_loss(head, windows[0, :256])
    for window in windows:
        for name, head in heads.items():
            started = time.perf_counter()
            losses[name].append(mean_loss(head, window))
            seconds[name] += time.perf_counter() - started
    means = {name: math.fsum(values) / len(values) for name, values in losses.items()}
    print(f"{arguments.model}, {arguments.corpus}, {windows.numel()} tokens, {torch.get_num_threads()} threads")
    for name, mean in means.items():
        shift = math.exp(mean - means["float32"]) - 1
        ratio = seconds["float32"] / seconds[name]
        print(f"{name:18} perplexity {math.exp(mean):8.4f}  {shift:+.3%}  {seconds[name]:6.1f} s  {ratio:.2f}x")


if __name__ == "__main__":
    main()
