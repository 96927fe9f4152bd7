"""Compares recipes on one model: divergence from full precision, paired differences, processor seconds.

Shared by benchmarks that compare unnamed settings of a method. Methods are calibrated on windows of one text and
evaluated on windows spread over another. Differences are paired: the mean over windows of the difference in divergence,
with its 95 % interval, which allows for dependent neighbouring windows.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.analysis.serial import series_mean
from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows, spread_windows, text_tokens
from slmquant.core.divergence import log_normalize_, token_divergence_
from slmquant.errors import RefusedError
from slmquant.methods.common.recipe import Recipe
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse


@dataclass(frozen=True)
class Bench:
    """One model with windows for calibration and for evaluation.

    Attributes:
        model: The full-precision model.
        calibration: Calibration windows.
        windows: Evaluation windows.
        positions: Position of each evaluation window in its text, in windows.
        seed: Random seed of recipes.
    """

    model: PreTrainedModel
    calibration: Int[Tensor, "samples seq"]
    windows: Int[Tensor, "windows seq"]
    positions: Sequence[int]
    seed: int = 0

    def read(self, name: str, recipe: Recipe, scheme: str) -> Reading | str:
        """Quantize the model by a recipe and measure it; returns the reason if it is refused."""
        model = copy.deepcopy(self.model)
        calibration = FreshCalibration(model, self.calibration, torch.float32, Silent())
        started = time.process_time()
        try:
            made = quantize_(model, name, parse(scheme), calibration, seed=self.seed, recipe=recipe)
        except RefusedError as error:
            return str(error)
        spent = time.process_time() - started
        return Reading(tuple(divergence(self.model, made.model, self.windows)), self.positions, spent, made.notes)


@dataclass(frozen=True)
class Reading:
    """Measurements of a quantized model.

    Attributes:
        divergences: Mean KL divergence from full precision in each window, in nats.
        positions: Position of each window in its text.
        cpu_s: Processor seconds of quantizing, over all cores.
        notes: The recipe's notes.
    """

    divergences: tuple[float, ...]
    positions: Sequence[int]
    cpu_s: float
    notes: tuple[str, ...]

    @property
    def divergence(self) -> str:
        """The mean divergence, as text."""
        return f"{statistics.fmean(self.divergences):.4f}"

    def less(self, other: Reading) -> str:
        """The mean of this divergence minus the other's, with its 95 % interval, as text."""
        apart = [mine - theirs for mine, theirs in zip(self.divergences, other.divergences, strict=True)]
        found = series_mean(apart, None, self.positions)
        interval = found.interval()
        return f"{found.mean:+.4f}" + ("" if interval is None else f" [{interval.low:+.4f}, {interval.high:+.4f}]")


def add_options(parser: argparse.ArgumentParser, schemes: Sequence[str]) -> None:
    """Add the command-line options that `bench_of` reads, and `--schemes`."""
    parser.add_argument("model", nargs="?", default="stories15m")
    parser.add_argument("--schemes", nargs="+", default=schemes)
    parser.add_argument("--corpus", default="tinystories", help="corpus to evaluate on")
    parser.add_argument("--windows", type=int, default=16, help="number of evaluation windows")
    parser.add_argument("--calibration", default="exl_tiny_calib", help="corpus to calibrate on")
    parser.add_argument("--samples", type=int, default=64, help="number of calibration windows")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens per window")
    parser.add_argument("--seed", type=int, default=0)


def bench_of(given: argparse.Namespace) -> Bench:
    """Make a bench from the options of `add_options`."""
    loaded = load(given.model)
    looked_at = calibration_windows(
        loaded.tokenizer, load_corpus(given.calibration), given.samples, given.seq_len, given.seed
    )
    tokens = text_tokens(loaded.tokenizer, load_corpus(given.corpus).text)
    available = len(tokens) // given.seq_len
    positions = spread_windows(given.corpus, available, given.windows)
    windows = tokens[: available * given.seq_len].view(available, given.seq_len)[list(positions)]
    return Bench(loaded.model.eval(), looked_at, windows, positions, given.seed)


@torch.inference_mode()
def divergence(full: PreTrainedModel, other: PreTrainedModel, windows: Int[Tensor, "windows seq"]) -> list[float]:
    """Mean KL divergence over the tokens of each window, in nats."""
    found = []
    for window in windows:
        log_p, log_q = (log_normalize_(model(window[None]).logits[0]) for model in (full, other))
        found.append(float(token_divergence_(log_p, log_q).forward.mean()))
    return found


def conditions(given: argparse.Namespace) -> str:
    """The conditions that all rows share, for a title."""
    return (
        f"{given.model}: {given.windows} windows of {given.seq_len} tokens of {given.corpus}, calibrated on "
        f"{given.samples} of {given.calibration}, seed {given.seed}"
    )


def console() -> Console:
    """A console that is wide enough for the tables if it does not write to a terminal."""
    return Console(width=None if Console().is_terminal else 160, highlight=False)


def by_name(readings: Mapping[str, Reading | str], name: str) -> Reading | None:
    """The reading of that name, or None if there is none or it was refused."""
    found = readings.get(name)
    return found if isinstance(found, Reading) else None
