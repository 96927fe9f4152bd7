"""Compares files of one model in one engine: bytes, perplexity, decode speed. Shared by the `*_reach.py`.

The engine computes perplexity over windows of 512 tokens, spread evenly over the text of each corpus (WikiText-2's test
split, and C4, which our methods were not calibrated on), each window independently. The table also shows the mean
divergence from the full-precision file, the divergence that one token in a hundred exceeds and, for our files, torch's
perplexity of the same weights on the first corpus. Below the table, every file of ours is compared with every other
file, window by window: the mean difference of losses (or of divergences) in nats per token, its 95 % interval, and its
p, corrected by Holm's method over all printed comparisons.

With `--timing`, all files are open at once, each in its own process, and decode 64 tokens after 512 in balanced turns:
printed are the median over rounds with its quartiles, and the paired ratio to the usual 16-bit file with its standard
error.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from printed import write_printed
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slmquant import api, engines
from slmquant.analysis.multiple import holm
from slmquant.analysis.pairs import Pairs
from slmquant.analysis.serial import series_mean
from slmquant.cache.upkeep import read_size
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import spread_windows, text_tokens
from slmquant.core.divergence import log_normalize_, next_token_nll, token_divergence_
from slmquant.engine_bench.jobs import EngineJob, Settings
from slmquant.engine_bench.requests import Point
from slmquant.engine_bench.session import run_engines
from slmquant.engines.common.contract import OpenOptions, Session
from slmquant.formats.common.contract import Format
from slmquant.machine.environment import environment
from slmquant.schemes import Scheme
from slmquant.store.record import CalibrationSpec, Metric

WINDOW, ROUNDS, STEPS = 512, 12, 64
CORPORA = ("wikitext2_test", "c4_train_b")
CALIBRATION = "wikitext2_train"


@dataclass(frozen=True)
class Artifact:
    """One file or folder, and torch's perplexity of the same weights, or None."""

    name: str
    path: Path
    torch_ppl: float | None = None


@dataclass(frozen=True)
class Contest:
    """A comparison of our files with those of an engine's own converter.

    Attributes:
        engine: Name of the engine that runs all files.
        full: Name and format of the full-precision file that divergence is measured from.
        ours: Format of our files.
        entries: `METHOD:SCHEME` of our files, or `METHOD:91.74MB` with types that `slmq` chooses for so many bytes.
        theirs: Makes the converter's files from the full-precision model, its file, a scratch folder, and our methods'
            calibration set.
        weight_bytes: Computes the bytes of an artifact's weights, without a tokenizer in separate files.
        variants: Makes variants of one of our files, in the given folder.
        usual: Name and format of the 16-bit file that speeds are compared with; None if that is `full`.
        by_divergence: Compare divergences below the table, not losses.
    """

    engine: str
    full: tuple[str, Format]
    ours: Format
    entries: Sequence[str]
    theirs: Callable[[api.Artifact, Path, Path, CalibrationSpec], Iterable[Artifact]]
    weight_bytes: Callable[[Path], int]
    variants: Callable[[Artifact, Path], Iterable[Artifact]] = lambda _artifact, _folder: ()
    usual: tuple[str, Format] | None = None
    by_divergence: bool = False


@dataclass(frozen=True)
class Reading:
    """Losses and divergences of one file on one corpus, window by window; `positions` are those in the text.

    Attributes:
        tail: Divergence that one token in a hundred exceeds.
    """

    positions: tuple[int, ...]
    losses: tuple[float, ...]
    divergences: tuple[float, ...]
    tail: float = 0.0

    @property
    def divergence(self) -> str:
        """The mean and its standard error, which allows for dependent neighbours."""
        if len(self.divergences) < 2:
            return f"{self.divergences[0]:.4f}"
        test = series_mean(self.divergences, positions=self.positions)
        return f"{test.mean:.4f}" + ("" if test.stderr is None else f" ± {test.stderr:.4f}")


def main(description: str, contest: Contest) -> None:
    """Read the command line, make missing files, and print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--ours", nargs="+", default=contest.entries, metavar="METHOD:SCHEME")
    parser.add_argument("--windows", type=int, default=8, help="windows of each corpus")
    parser.add_argument("--length", type=int, default=WINDOW, help="tokens per window, and before decoding")
    parser.add_argument("--corpora", nargs="+", default=CORPORA, help="corpora to evaluate on")
    parser.add_argument("--calibration", default=CALIBRATION, help="corpus to calibrate on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timing", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="keep the files here, and reuse those of ours from earlier runs")
    parser.add_argument("--output", type=Path, help="also write the results here as JSON, for the documents' tables")
    given = parser.parse_args()
    if given.calibration in given.corpora:
        parser.error(f"{given.calibration} is the calibration corpus; evaluate on another one")
    calibration = CalibrationSpec(corpus=given.calibration)
    settings = Settings(points=(Point(given.length, STEPS),), rounds=given.rounds, threads=(given.threads,))
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        plain = api.quantize(given.model, "none", "W16A16")
        windows = {name: spread(plain.tokenizer, name, given.windows, given.length) for name in given.corpora}
        artifacts = list(
            make(contest, plain, given.ours, folder, list(windows[given.corpora[0]].values()), calibration)
        )
        readings = {
            corpus: read(contest.engine, artifacts, pieces, given.threads) for corpus, pieces in windows.items()
        }
        usual = (contest.usual or contest.full)[0]
        speeds = timed(contest.engine, artifacts, usual, settings) if given.timing else {}
        heads, rows = table_of(contest, artifacts, readings, speeds, usual)
    others = [artifact.name for artifact in artifacts if artifact.name not in given.ours]
    lines = list(differences(readings, given.ours, others, contest.by_divergence)) if given.windows > 1 else []
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(table, *lines, sep="\n")
    if given.output is not None:
        write_printed(given.output, heads, rows, conditions_of(given, plain.quantized.notes), lines)


def report(text: str) -> None:
    """Print a step of the run on stderr."""
    print(text, file=sys.stderr, flush=True)


def conditions_of(given: argparse.Namespace, notes: Sequence[str]) -> str:
    """Under which conditions the figures of a table were measured, in a sentence."""
    here = environment()
    parts = [
        f"{given.model}: {given.windows} windows of {given.length} tokens of each corpus, evenly spread",
        f"methods calibrated on {given.calibration} 128×512",
        f"{here.cpu}, {given.threads} of {here.cores} cores",
    ]
    if given.timing:
        parts.append(f"decoding {STEPS} tokens after {given.length} in {given.rounds} balanced rounds")
    return "; ".join([*parts, *notes]) + ". ± one standard error; in brackets: quartiles."


def spread(tokenizer: PreTrainedTokenizerBase, corpus: str, count: int, length: int) -> dict[int, list[int]]:
    """Windows spread evenly over a whole text, without overlap, as tasks choose them, by position in the text."""
    ids = text_tokens(tokenizer, load_corpus(corpus).text)
    chosen = spread_windows(corpus, len(ids) // length, count)
    return {window: ids[length * window : length * (window + 1)].tolist() for window in chosen}


def read(
    engine: str, artifacts: Sequence[Artifact], windows: Mapping[int, Sequence[int]], threads: int
) -> dict[str, Reading]:
    """Losses of every file, and divergences from the first file."""
    full: list[torch.Tensor] = []
    readings: dict[str, Reading] = {}
    for artifact in artifacts:
        report(f"reading {artifact.name}")
        session = engines.load(engine).open(artifact.path, OpenOptions(threads, len(next(iter(windows.values())))))
        losses, divergences = [], list[torch.Tensor]()
        for place, window in enumerate(windows.values()):
            logs = log_probabilities(session, window)
            if artifact is artifacts[0]:
                full.append(logs.half())
            losses.append(float(next_token_nll(logs[:-1], torch.tensor(window[1:])).mean()))
            divergences.append(token_divergence_(full[place].float(), logs).forward)
        session.close()
        means = tuple(float(tokens.mean()) for tokens in divergences)
        tail = float(torch.cat(divergences).quantile(0.99))
        readings[artifact.name] = Reading(tuple(windows), tuple(losses), means, tail)
    return readings


def table_of(
    contest: Contest,
    artifacts: Sequence[Artifact],
    readings: Mapping[str, Mapping[str, Reading]],
    speeds: Mapping[str, tuple[str, str]],
    usual: str,
) -> tuple[list[str], list[list[str]]]:
    """Heads of the columns, and a row for each file."""
    heads = [head for corpus in readings for head in (f"perplexity, {corpus}", "KL, nats", "99 %")]
    rows = []
    for artifact in artifacts:
        cells = [f"{contest.weight_bytes(artifact.path) / 1e6:.2f}"]
        for reading in (found[artifact.name] for found in readings.values()):
            apart = "" if artifact is artifacts[0] else reading.divergence
            tail = "" if artifact is artifacts[0] else f"{reading.tail:.3f}"
            cells += [f"{np.exp(np.mean(reading.losses)):.3f}", apart, tail]
        own = "" if artifact.torch_ppl is None else f"{artifact.torch_ppl:.3f}"
        rows.append([artifact.name, *cells, own, *speeds.get(artifact.name, ("not measured", ""))])
    return ["made by", "MB", *heads, "in torch", "decode, tokens/s", f"times {usual}"], rows


def differences(
    readings: Mapping[str, Mapping[str, Reading]],
    ours: Sequence[str],
    others: Sequence[str],
    by_divergence: bool = False,
) -> Iterator[str]:
    """Differences of each of our files from each other file on each corpus, over the same windows."""
    found = {
        (corpus, mine, other): test
        for corpus, reading in readings.items()
        for mine, other in itertools.product(ours, others)
        if (test := paired(reading[other], reading[mine], by_divergence).estimate()) is not None
    }
    corrected = holm({key: p for key, test in found.items() if (p := test.p_value()) is not None})
    for (corpus, mine, other), test in found.items():
        p, span = corrected.get((corpus, mine, other)), test.interval()
        verdict = "" if p is None else f", p = {p:.3g} after Holm over {len(corrected)}"
        windows = len(readings[corpus][mine].positions)
        ends = "" if span is None else f" [{span.low:+.4f}, {span.high:+.4f}]"
        line = f"{mine} less {other}: {test.mean:+.4f}{ends} nats over {windows} windows of {corpus}{verdict}"
        yield line if p is None or p < 0.05 else f"{line}: not told apart"


def paired(first: Reading, second: Reading, by_divergence: bool = False) -> Pairs:
    """Losses or divergences of two files on the same windows, paired as in `slmquant compare`."""
    places = tuple(str(place) for place in first.positions)
    values = (first.divergences, second.divergences) if by_divergence else (first.losses, second.losses)
    return Pairs(places, *values, complete=True, of_perplexity=not by_divergence, of_text=True)


def make(
    contest: Contest,
    plain: api.Artifact,
    entries: Sequence[str],
    folder: Path,
    windows: Sequence[Sequence[int]],
    calibration: CalibrationSpec,
) -> Iterator[Artifact]:
    """Make the full-precision files, the converter's, and ours."""
    name, fmt = contest.full
    path = folder / f"full{fmt.suffix}"
    yield written(name, plain, fmt, path, windows)
    if contest.usual is not None:
        name, fmt = contest.usual
        yield written(name, plain, fmt, folder / f"usual{fmt.suffix}", windows)
    yield from contest.theirs(plain, path, folder, calibration)
    for entry in entries:
        path = folder / f"{entry.replace(':', '-')}{contest.ours.suffix}"
        ours = Artifact(entry, path)
        if not path.exists():
            ours = written(entry, quantized(entry, plain, calibration), contest.ours, path, windows)
        yield ours
        yield from contest.variants(ours, folder)


def quantized(entry: str, plain: api.Artifact, calibration: CalibrationSpec) -> api.Artifact:
    """The model quantized as `METHOD:SCHEME` says, or to the types that `slmq` chooses for `METHOD:91.74MB`."""
    report(f"quantizing to {entry}")
    method, name = entry.split(":")
    stored: str | Scheme = name
    if name.endswith("MB"):
        stored = api.choose_mixture(plain.source, read_size(name, entry), calibration=calibration).scheme
    return api.quantize(plain.source, method, stored, calibration=calibration)


def written(name: str, made: api.Artifact, fmt: Format, path: Path, windows: Sequence[Sequence[int]]) -> Artifact:
    """Write a model, and measure its perplexity in torch."""
    fmt.write(made, path)
    return Artifact(name, path, torch_ppl(made.quantized.model, windows))


@torch.inference_mode()
def torch_ppl(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> float:
    """Perplexity in torch."""
    losses = []
    for window in windows:
        ids = torch.tensor([window])
        losses.append(torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:]).item())
    return float(np.exp(np.mean(losses)))


def log_probabilities(session: Session, window: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of every next token of a window, `(len(window), vocabulary)`."""
    session.reset()
    return log_normalize_(torch.tensor(session.feed(window, every=True)))


def timed(engine: str, artifacts: Sequence[Artifact], usual: str, settings: Settings) -> dict[str, tuple[str, str]]:
    """Decode speed of each file with its quartiles and number of rounds, and the paired ratio to the usual file."""
    report(f"timing {len(artifacts)} files; speeds are those of a machine without other work")
    jobs = [EngineJob(artifact.name, engine, artifact.path) for artifact in artifacts]
    baseline = [artifact.name for artifact in artifacts].index(usual)
    speeds = {}
    for result in run_engines(jobs, settings, baseline):
        found = {metric.name.partition("/")[0]: metric for metric in result.metrics}
        rate, ratio = (found.get(f"decode_{kind}@{settings.points[0].context}") for kind in ("tokens_per_s", "speedup"))
        values = [settings.points[0].steps / item.values["decode_s"] for item in result.items]
        shown = f"failed: {result.reason}"
        if rate is not None:
            low, high = np.percentile(values, (25, 75))
            shown = f"{rate.value:.1f} [{low:.1f}, {high:.1f}], n = {len(values)}"
        speeds[result.job.label] = (shown, _ratio(ratio))
    return speeds


def _ratio(metric: Metric | None) -> str:
    if metric is None:
        return ""
    return f"{metric.value:.2f}" + ("" if metric.stderr is None else f" ± {metric.stderr:.2f}")
