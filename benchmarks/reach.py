"""Files of one model side by side in one engine: bytes, perplexity, decode speed. What the `*_reach.py` share.

Perplexity is over windows of 512 tokens of WikiText-2's test split, each on its own, computed by the engine; beside it
stands torch's of the same weights, where they are ours, and the mean divergence from the full-precision file. Below
the table every file of ours is held against every one of the others, window by window: the mean difference in nats per
token, and its standard error. With `--timing` all files are open at once and decode in turns, so that what else the
machine does meets all of them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from slmquant import api
from slmquant.analysis.paired import paired_test
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.core.divergence import log_normalize_, next_token_nll, token_divergence_
from slmquant.engines._base import Chooses, Engine, OpenOptions, Session
from slmquant.formats._base import Export, Format

WINDOW, ROUNDS, STEPS = 512, 15, 32


@dataclass(frozen=True)
class Artifact:
    """One file or folder, and torch's perplexity of the same weights where there is one."""

    name: str
    path: Path
    torch_ppl: float | None = None


@dataclass(frozen=True)
class Contest:
    """Our files against those of an engine's own converter.

    Attributes:
        engine: What runs them all.
        full: Name and format of the full-precision file.
        ours: The format of our own.
        entries: `METHOD:SCHEME` of ours.
        theirs: Makes theirs, given the full-precision model, the file made of it, and a folder to work in.
        weight_bytes: What an artifact's weights take, tokenizer aside where it lies in files of its own.
        variants: Makes others of one of ours, in the folder given.
    """

    engine: Engine
    full: tuple[str, Format]
    ours: Format
    entries: Sequence[str]
    theirs: Callable[[Export, Path, Path], Iterable[Artifact]]
    weight_bytes: Callable[[Path], int]
    variants: Callable[[Artifact, Path], Iterable[Artifact]] = lambda _artifact, _folder: ()


def main(description: str, contest: Contest) -> None:
    """Read the command line, make what is missing, print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--ours", nargs="+", default=contest.entries, metavar="METHOD:SCHEME")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timing", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the files there, and take those of ours that are there")
    given = parser.parse_args()
    options = OpenOptions(given.threads, WINDOW)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        plain = api.quantize(given.model, "none", "W16A16")
        ids = text_tokens(plain.tokenizer, load_corpus("wikitext2_test").text).tolist()
        windows = [ids[start : start + WINDOW] for start in range(0, WINDOW * given.windows, WINDOW)]
        artifacts = list(make(contest, plain, given.ours, folder, windows))
        rates = decode_rates(contest.engine, artifacts, windows[0], options) if given.timing else {}
        table = Table("made by", "MB", "perplexity", "in torch", "KL, nats", "decode, tokens/s")
        losses: dict[str, list[float]] = {}
        full: list[torch.Tensor] = []
        for artifact in artifacts:
            session = contest.engine.open(artifact.path, options)
            divergences, losses[artifact.name] = [], []
            for place, window in enumerate(windows):
                logs = log_probabilities(session, window)
                if artifact is artifacts[0]:
                    full.append(logs.half())
                losses[artifact.name].append(float(next_token_nll(logs[:-1], torch.tensor(window[1:])).mean()))
                divergences.append(float(token_divergence_(full[place].float(), logs).forward.mean()))
            session.close()
            ppl = np.exp(np.mean(losses[artifact.name]))
            apart = "" if artifact is artifacts[0] else f"{np.mean(divergences):.4f}"
            rate = f"{rates[artifact.name]:.1f}" if rates else "not measured"
            own = "" if artifact.torch_ppl is None else f"{artifact.torch_ppl:.3f}"
            size = contest.weight_bytes(artifact.path) / 1e6
            table.add_row(artifact.name, f"{size:.2f}", f"{ppl:.3f}", own, apart, rate)
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(table)
    for line in differences(losses, given.ours) if given.windows > 1 else ():
        console.print(line)


def differences(losses: Mapping[str, Sequence[float]], ours: Sequence[str]) -> Iterator[str]:
    """Each of ours against each of the others, over the same windows."""
    for mine, other in itertools.product(ours, [name for name in losses if name not in ours]):
        found = paired_test(losses[other], losses[mine])
        yield f"{mine} less {other}: {found.difference:+.4f} ± {found.stderr:.4f} nats over {found.n} windows"


def make(
    contest: Contest, plain: api.Artifact, entries: Sequence[str], folder: Path, windows: Sequence[Sequence[int]]
) -> Iterator[Artifact]:
    """The full-precision file, theirs, and ours."""
    name, fmt = contest.full
    path = folder / f"full{fmt.suffix}"
    yield written(name, plain, fmt, path, windows)
    yield from contest.theirs(export_of(plain), path, folder)
    for entry in entries:
        method, scheme = entry.split(":")
        path = folder / f"{method}-{scheme}{contest.ours.suffix}"
        ours = Artifact(entry, path)
        if not path.exists():
            ours = written(entry, api.quantize(plain.source, method, scheme), contest.ours, path, windows)
        yield ours
        yield from contest.variants(ours, folder)


def written(name: str, made: api.Artifact, fmt: Format, path: Path, windows: Sequence[Sequence[int]]) -> Artifact:
    """Write a model and ask torch what it is worth."""
    fmt.write(export_of(made), path)
    return Artifact(name, path, torch_ppl(made.quantized.model, windows))


def export_of(made: api.Artifact) -> Export:
    """What a format writes."""
    return Export(made.quantized, made.tokenizer, made.source, made.source_sha256)


@torch.inference_mode()
def torch_ppl(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> float:
    """Perplexity, with products of linears in what the machine is fast at."""
    losses = []
    for window in windows:
        ids = torch.tensor([window])
        losses.append(torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:]).item())
    return float(np.exp(np.mean(losses)))


def log_probabilities(session: Session, window: Sequence[int]) -> torch.Tensor:
    """Of every next token of a window, `(len(window), vocabulary)`."""
    session.reset()
    return log_normalize_(torch.tensor(session.feed(window, every=True)))


def decode_rates(
    engine: Engine, artifacts: Sequence[Artifact], tokens: Sequence[int], options: OpenOptions
) -> dict[str, float]:
    """Median tokens per second of each; every round visits all of them."""
    sessions = {artifact.name: engine.open(artifact.path, options) for artifact in artifacts}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, session in sessions.items():
            session.reset()
            session.feed(tokens[:16])
            started = time.perf_counter()
            for token in tokens[16 : 16 + STEPS]:
                session.choose([token]) if isinstance(session, Chooses) else session.feed([token])
            seconds[name].append((time.perf_counter() - started) / STEPS)
    for session in sessions.values():
        session.close()
    return {name: 1 / statistics.median(taken[1:]) for name, taken in seconds.items()}
