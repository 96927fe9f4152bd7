"""Chooses the compute mode: the fastest that a measurement on the model shows to be as accurate as float32.

All modes (`model.computing.modes`) run in turns over the same windows of text. From float32 on, the next less exact
mode is chosen if it is at least `MIN_SPEEDUP` times as fast as the chosen one, and if the upper end of the interval of
its divergence from float32 is at most `MAX_KL`. What is timed is body and head, as in evaluation. A shift of perplexity
could not decide: over so few tokens its error is as large as any useful bound, while a divergence has no such error, as
it is 0 if nothing changed.
The decision is cached for this model, machine and versions of torch and transformers, so that a repeated run computes
in the same mode whatever the machine's load.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
import transformers
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.analysis.intervals import student
from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.core.divergence import compare_
from slmquant.errors import DataError, UnknownNameError
from slmquant.machine.environment import environment, usable_cores
from slmquant.model.compatibility.context import fitting
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.computing.modes import FLOAT32, MODES, ComputeMode, attending_in
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import LoadedModel, load
from slmquant.model.sources.resolve import public_name
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.store.record import ComputeDtype, Metric

Dtype = Literal["auto", ComputeDtype]
"""The name of a compute mode, or `auto` to choose one."""

MIN_SPEEDUP = 1.1
"""Smallest speedup at which a mode is worth its rounding."""
MAX_KL = 0.001
"""Largest accepted divergence from float32, in nats: a seventh of the smallest that was measured for 8-bit methods
(0.007; round-to-nearest has 0.03), three to five times that of the modes with bfloat16 (0.0002 to 0.0003)."""

_WINDOWS, _WINDOW_TOKENS = 8, 512
_VERSION = 7


@dataclass(frozen=True)
class PrecisionJob:
    """The model to choose a mode for, and the text to measure on."""

    model: str
    model_key: str
    corpus: str
    device: str
    places: Places


@dataclass(frozen=True)
class ModeTrial:
    """Speed and accuracy of a mode.

    Attributes:
        dtype: The mode's name.
        speedup: Seconds in float32 over seconds in this mode, the median over windows run in turn; on a CPU, seconds
            of processor time.
        kl: KL(float32‖mode) in nats.
        kl_stderr: Its standard error, from windows drawn at random.
        kl_high: The upper end of its 95 % interval, which decides.
        perplexity_shift: `ppl(mode) / ppl(float32) − 1`; not used for the decision.
    """

    dtype: ComputeDtype
    speedup: float
    kl: float
    kl_stderr: float
    kl_high: float
    perplexity_shift: float

    def __str__(self) -> str:
        return (
            f"{self.dtype} is {self.speedup:.1f} times as fast as float32 here; its divergence from it is "
            f"{self.kl:.2g} nats, at most {self.kl_high:.2g}"
        )


@dataclass(frozen=True)
class PrecisionDecision:
    """The mode to compute in, and the trials that it was chosen from, over `tokens` tokens."""

    dtype: ComputeDtype
    trials: tuple[ModeTrial, ...]
    tokens: int

    def metrics(self) -> list[Metric]:
        """The measurement as metrics of a row."""
        return [metric for trial in self.trials for metric in self._metrics(trial)]

    def _metrics(self, trial: ModeTrial) -> Iterator[Metric]:
        protocol = (
            f"{trial.dtype} against float32 over {self.tokens} tokens; KL at most {trial.kl_high:.2g} nats at 95 %, "
            f"{MAX_KL:g} accepted; computed in {self.dtype}"
        )
        short = trial.dtype.replace("bfloat16", "bf16")
        figures = (
            ("speedup", trial.speedup, "ratio", None),
            ("kl_mean", trial.kl, "nats", trial.kl_stderr),
            ("perplexity_shift", trial.perplexity_shift, "ratio", None),
        )
        for name, value, unit, stderr in figures:
            if math.isfinite(value):  # bfloat16 may overflow; then it is not chosen
                yield Metric(
                    name=f"{short}_{name}", value=value, unit=unit, higher_is_better=None, n=self.tokens,
                    stderr=stderr, clusters=None if stderr is None else _WINDOWS, protocol=protocol,
                )  # fmt: skip


def decide_precision(job: PrecisionJob, progress: Progress, loaded: LoadedModel | None = None) -> PrecisionDecision:
    """Measure all modes, or read an earlier measurement of the same model on the same machine.

    Args:
        job: Which model, text and device.
        progress: Receives progress updates.
        loaded: The model in float32 if it is loaded already, which is left as it is; None to load it.

    Raises:
        DataError: The corpus is absent or too short.
    """
    corpus = load_corpus(job.corpus, job.places.data_dir, progress)
    if (known := known_precision(job, corpus.card.sha256)) is not None:
        return known
    torch.set_num_threads(usable_cores())
    loaded = loaded or load(job.model, device=job.device)
    length = fitting(_WINDOW_TOKENS, loaded.model.config)
    windows = calibration_windows(loaded.tokenizer, corpus, _WINDOWS, length, 0).to(job.device)
    _run_modes(loaded.model, windows[0])  # the first run includes set-up time
    progress.start("choose the compute dtype", len(windows))
    runs = []
    for window in windows:  # in turn, so that other load affects all modes alike
        runs.append(_run_modes(loaded.model, window))
        progress.advance()
    decision = _decide(runs, windows.numel())
    path, about = _path(job, corpus.card.sha256), About(public_name(job.model), f"compute dtype: {decision.dtype}")
    put(path, about, _STORED.dump_json(decision))
    return decision


def chosen_dtype(
    source: str, dtype: Dtype, device: str, corpus: str, places: Places, progress: Progress, loaded: LoadedModel
) -> ComputeDtype:
    """The mode that `dtype` names; `auto` decides, and is float32 if there is no text to measure on.

    Args:
        source: The model, as the user named it.
        dtype: A mode, or `auto`.
        device: Device to compute on.
        corpus: The text to measure on.
        places: Where data and cache are.
        progress: Receives progress updates.
        loaded: The model in float32, which is left as it is.

    Raises:
        UnknownNameError: There is no such mode.
    """
    if dtype not in get_args(Dtype):
        raise UnknownNameError("dtype", dtype, get_args(Dtype))
    if dtype != "auto":
        return dtype
    try:
        return decide_precision(PrecisionJob(source, key_of(source), corpus, device, places), progress, loaded).dtype
    except DataError:  # no text to measure on; whatever needs one raises this itself
        return "float32"


def known_precision(job: PrecisionJob, corpus_sha256: str) -> PrecisionDecision | None:
    """An earlier measurement of the same model on the same machine; None if there is none."""
    known = get(_path(job, corpus_sha256))
    return None if known is None else _STORED.validate_json(known)


_STORED = TypeAdapter(PrecisionDecision)


@dataclass(frozen=True)
class _Run:
    """One window in one mode: seconds, mean loss, and mean divergence from float32."""

    seconds: float
    loss: float
    kl: float


@torch.inference_mode()
def _run_modes(model: PreTrainedModel, window: Tensor) -> dict[ComputeDtype, _Run]:
    """Run a window in every mode, float32 first."""
    exact, reference = OutputHead(model), None
    runs: dict[ComputeDtype, _Run] = {}
    for mode in MODES.values():
        runs[mode.name], hidden = _run_in(mode, model, window, exact, reference)
        reference = hidden if reference is None else reference
    return runs


def _run_in(
    mode: ComputeMode, model: PreTrainedModel, window: Tensor, exact: OutputHead, reference: Tensor | None
) -> tuple[_Run, Tensor]:
    """Run a window in a mode; returns its hidden states, too.

    Args:
        mode: The mode.
        model: The model, in float32.
        window: Token ids.
        exact: The head in float32.
        reference: Hidden states in float32 to compare with; None to compare this run's with themselves.
    """
    head, clock = OutputHead(model, dtype=mode.head), _Clock(window.device)
    with multiplying_in(model.base_model, mode.linears), attending_in(mode.attention):
        hidden = clock.time(lambda: head.hidden(window[None])[0, :-1])
    reference = hidden if reference is None else reference
    rows = max(1, len(hidden) // 4)  # a quarter of the logits at a time
    parts = []
    for states, known, targets in zip(hidden.split(rows), reference.split(rows), window[1:].split(rows), strict=True):
        compared = compare_(exact.logits(known), clock.time(partial(head.logits, states)), targets)
        parts.append(torch.stack([compared.nll, compared.divergence.forward]).double())
    loss, kl = torch.cat(parts, dim=1).mean(dim=1).tolist()
    return _Run(clock.seconds, loss, kl), hidden


class _Clock:
    """Adds up seconds; on a CPU those of this process's processor time, which other load hardly changes."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device

    def time(self, work: Callable[[], Tensor]) -> Tensor:
        """Run `work`, and count its time."""
        read = time.process_time if self._device.type == "cpu" else time.perf_counter
        started = read()
        result = work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += read() - started
        return result


def _decide(runs: Sequence[Mapping[ComputeDtype, _Run]], tokens: int) -> PrecisionDecision:
    """Decide from the runs over all windows; figures that are not finite decide against a mode."""
    exact = FLOAT32.name
    trials = tuple(_trial(name, runs) for name in MODES if name != exact)
    chosen, speedup = exact, 1.0
    for trial in trials:
        if trial.speedup >= MIN_SPEEDUP * speedup and trial.kl_high <= MAX_KL:
            chosen, speedup = trial.dtype, trial.speedup
    return PrecisionDecision(chosen, trials, tokens)


def _trial(name: ComputeDtype, runs: Sequence[Mapping[ComputeDtype, _Run]]) -> ModeTrial:
    pairs = [(run[FLOAT32.name], run[name]) for run in runs]
    speedup = statistics.median(exact.seconds / run.seconds for exact, run in pairs)
    shift = math.expm1(min(100.0, math.fsum(run.loss - exact.loss for exact, run in pairs) / len(pairs)))
    kl = math.fsum(run.kl for _, run in pairs) / len(pairs)
    stderr = math.sqrt(math.fsum((run.kl - kl) ** 2 for _, run in pairs) / (len(pairs) - 1) / len(pairs))
    high = student(kl, stderr, len(pairs)).high if math.isfinite(kl) else math.inf
    return ModeTrial(name, speedup, kl, stderr, high, shift)


def _path(job: PrecisionJob, corpus_sha256: str) -> Path:
    machine = environment()
    key = [_VERSION, job.model_key, corpus_sha256, job.device, machine.cpu, machine.gpu, machine.threads,
           torch.__version__, transformers.__version__]  # fmt: skip
    return entry_path(job.places.cache_dir, "precision", key)
