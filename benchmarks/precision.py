"""Speed and accuracy of each compute mode, and of the whole model in bfloat16, against float32.

Prints, for each: processor seconds per thousand tokens of body and head, their ratio to float32's (median over
windows), and the divergence of its predictions from float32's with a 95 % interval. The modes take turns window by
window, so that other load affects all alike. Windows of 2048 tokens are spread over the text.

    python benchmarks/precision.py smollm2-135m-instruct --windows 4 --output results/published/modes.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from printed import write_printed
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from slmquant.analysis.serial import series_mean
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import spread_windows, text_tokens
from slmquant.core.divergence import log_normalize_, token_divergence_
from slmquant.machine.environment import environment
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.computing.modes import FLOAT32, MODES, ComputeMode, attending_in
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.load import load

ROWS = 160
"""Tokens whose logits are computed at a time, as in evaluation."""
WHOLE = "the whole model in bfloat16"
HEADS = ("mode", "body, s/1000 tokens", "head, s/1000 tokens", "times float32", "KL from float32, nats", "same top-1")


@dataclass
class Figures:
    """Of one mode, window by window."""

    body_s: list[float] = field(default_factory=list)
    head_s: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)


@contextmanager
def computing(model: PreTrainedModel, mode: ComputeMode) -> Iterator[None]:
    with multiplying_in(model.base_model, mode.linears), attending_in(mode.attention):
        yield


@torch.inference_mode()
def measure(model: PreTrainedModel, mode: ComputeMode, window: torch.Tensor, exact: list[torch.Tensor]) -> Figures:
    """One window in one mode; `exact` has float32's log-probabilities, and is filled by the first."""
    head, figures = OutputHead(model, dtype=mode.head), Figures()
    with computing(model, mode):
        started = time.process_time()
        hidden = head.hidden(window[None])[0]
        figures.body_s.append((time.process_time() - started) / len(window) * 1000)
    found, seconds, first = [], 0.0, not exact
    for place, states in enumerate(hidden.split(ROWS)):
        started = time.process_time()
        logits = head.logits(states, again=True)
        seconds += time.process_time() - started
        log_normalize_(logits)
        if first:
            exact.append(logits.clone())
        found.append(token_divergence_(exact[place].clone(), logits))
    figures.head_s.append(seconds / len(window) * 1000)
    figures.kl.append(float(torch.cat([part.forward for part in found]).mean()))
    figures.agreement.append(float(torch.cat([part.agrees for part in found]).float().mean()))
    return figures


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--corpus", default="wikitext2_test")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--output", type=Path, help="also write the table here as JSON, for the documents' tables")
    given = parser.parse_args()
    plain, cast = load(given.model), load(given.model, torch.bfloat16)
    tokens = text_tokens(plain.tokenizer, load_corpus(given.corpus).text)
    available = len(tokens) // given.tokens
    positions = spread_windows(given.corpus, available, given.windows)
    ways = [(name, plain.model, mode) for name, mode in MODES.items()] + [(WHOLE, cast.model, FLOAT32)]
    figures: dict[str, Figures] = {name: Figures() for name, *_ in ways}
    for turn, position in enumerate((positions[0], *positions)):
        window, exact = tokens[given.tokens * position : given.tokens * (position + 1)], list[torch.Tensor]()
        for name, model, mode in ways:
            found = measure(model, mode, window, exact)
            if turn:  # the first turn includes set-up time
                for kept, new in zip(vars(figures[name]).values(), vars(found).values(), strict=True):
                    kept += new
    rows = [row_of(name, found, figures[FLOAT32.name], positions) for name, found in figures.items()]
    table = Table(*HEADS)
    for row in rows:
        table.add_row(*row)
    Console(width=140, highlight=False).print(table)
    if given.output is not None:
        here = environment()
        conditions = (
            f"{given.model}: {given.windows} windows of {given.tokens} tokens of {given.corpus}, evenly spread; "
            f"{here.cpu}, {here.threads} of {here.cores} cores, processor time. In brackets: 95 % intervals."
        )
        write_printed(given.output, HEADS, rows, conditions)


def row_of(name: str, found: Figures, exact: Figures, positions: tuple[int, ...]) -> list[str]:
    """A row of the table."""
    totals = [
        (a + b) / (c + d) for a, b, c, d in zip(exact.body_s, exact.head_s, found.body_s, found.head_s, strict=True)
    ]
    estimate = series_mean(found.kl, positions=positions)
    span = estimate.interval()
    kl = f"{estimate.mean:.2g}" + ("" if span is None else f" [{max(0.0, span.low):.2g}, {span.high:.2g}]")
    return [
        name,
        f"{statistics.median(found.body_s):.2f}",
        f"{statistics.median(found.head_s):.2f}",
        f"{statistics.median(totals):.2f}",
        "" if found is exact else kl,
        "" if found is exact else f"{statistics.fmean(found.agreement):.2%}",
    ]


if __name__ == "__main__":
    main()
