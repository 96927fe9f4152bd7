"""Chooses the dtype of linears: bfloat16 if a measurement shows it to be faster and as accurate on the model.

Everything else stays in float32 (`model.computing.linear.multiply_in_`). Both dtypes run over the same windows of
text; bfloat16 is chosen if it is at least `MIN_SPEEDUP` times as fast, and if the upper end of the interval of its
divergence from float32 is at most `MAX_KL`. A shift of perplexity could not decide: over so few tokens its error is as
large as any useful bound, while a divergence has no such error, as it is 0 if nothing changed.
The decision is cached for this model, machine and versions of torch and transformers, so that a repeated run computes
in the same dtype whatever the machine's load.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.analysis.intervals import student
from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.core.divergence import compare_, log_normalize_, next_token_nll
from slmquant.machine.environment import environment, usable_cores
from slmquant.model.compatibility.context import fitting
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.load import LoadedModel, load
from slmquant.model.sources.resolve import public_name
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.store.record import ComputeDtype, Metric

MIN_SPEEDUP = 1.1
"""Smallest speedup at which bfloat16 is worth its rounding."""
MAX_KL = 0.001
"""Largest accepted divergence of bfloat16 products from float32, in nats: a ninth of the smallest that was measured for
8-bit methods (0.009; round-to-nearest has 0.03), four times that of bfloat16 products (0.00026)."""

_WINDOWS, _WINDOW_TOKENS = 8, 512
_VERSION = 6


@dataclass(frozen=True)
class PrecisionJob:
    """The model to choose a dtype for, and the text to measure on."""

    model: str
    model_key: str
    corpus: str
    device: str
    places: Places


@dataclass(frozen=True)
class PrecisionDecision:
    """The measurement and the dtype it leads to.

    Attributes:
        dtype: Dtype to compute in.
        speedup: Seconds in float32 over seconds in bfloat16, the median over windows run in turn; on a CPU, seconds
            of processor time.
        kl: KL(float32‖bfloat16) in nats, over `tokens` tokens.
        kl_stderr: Its standard error, from windows drawn at random.
        kl_high: The upper end of its 95 % interval, which decides.
        perplexity_shift: `ppl(bfloat16) / ppl(float32) − 1`; not used for the decision.
        tokens: Number of tokens that both dtypes ran over.
    """

    dtype: ComputeDtype
    speedup: float
    kl: float
    kl_stderr: float
    kl_high: float
    perplexity_shift: float
    tokens: int

    def metrics(self) -> list[Metric]:
        """The measurement as metrics of a row."""
        protocol = (
            f"bfloat16 products against float32 over {self.tokens} tokens; KL at most {self.kl_high:.2g} nats at 95 %, "
            f"{MAX_KL:g} accepted; computed in {self.dtype}"
        )
        figures = (
            ("bf16_speedup", self.speedup, "ratio", None),
            ("bf16_kl_mean", self.kl, "nats", self.kl_stderr),
            ("bf16_perplexity_shift", self.perplexity_shift, "ratio", None),
        )
        return [
            Metric(
                name=name, value=value, unit=unit, higher_is_better=None, n=self.tokens, stderr=stderr,
                clusters=None if stderr is None else _WINDOWS, protocol=protocol,
            )
            for name, value, unit, stderr in figures
            if math.isfinite(value)  # bfloat16 may overflow; then it is not chosen
        ]  # fmt: skip


def decide_precision(job: PrecisionJob, progress: Progress, loaded: LoadedModel | None = None) -> PrecisionDecision:
    """Measure both dtypes, or read an earlier measurement of the same model on the same machine.

    Args:
        job: Which model, text and device.
        progress: Receives progress updates.
        loaded: The model in float32 if it is loaded already, which is left as it is; None to load it.

    Raises:
        DataError: The corpus is absent or too short.
    """
    corpus = load_corpus(job.corpus, job.places.data_dir, progress)
    path = _path(job, corpus.card.sha256)
    if (known := get(path)) is not None:
        return PrecisionDecision(**json.loads(known))
    torch.set_num_threads(usable_cores())
    loaded = loaded or load(job.model, device=job.device)
    length = fitting(_WINDOW_TOKENS, loaded.model.config)
    windows = calibration_windows(loaded.tokenizer, corpus, _WINDOWS, length, 0).to(job.device)
    head = OutputHead(loaded.model)
    _compared(loaded.model, head, windows[0])  # the first run includes set-up time
    progress.start("choose the compute dtype", len(windows))
    runs = []
    for window in windows:  # in turn, so that other load affects both dtypes alike
        runs.append(_compared(loaded.model, head, window))
        progress.advance()
    decision = _decide(runs, windows.numel())
    about = About(public_name(job.model), f"compute dtype: {decision.dtype}")
    put(path, about, json.dumps(asdict(decision)).encode())
    return decision


@dataclass(frozen=True)
class _Run:
    """One window in both dtypes, float32 first: seconds and mean loss of each, and their mean divergence."""

    seconds: tuple[float, float]
    losses: tuple[float, float]
    kl: float


@torch.inference_mode()
def _timed(head: OutputHead, window: Tensor) -> tuple[float, Tensor]:
    """Seconds for the hidden states of a window, and the states; the head computes in float32 in either case.

    On a CPU the seconds are this process's processor time, which other load on the machine hardly changes.
    """
    clock = time.process_time if window.device.type == "cpu" else time.perf_counter
    started = clock()
    hidden = head.hidden(window[None])[0, :-1]
    return clock() - started, hidden


@torch.inference_mode()
def _compared(model: PreTrainedModel, head: OutputHead, window: Tensor) -> _Run:
    plain_s, plain = _timed(head, window)
    with multiplying_in(model.base_model, torch.bfloat16):
        products_s, products = _timed(head, window)
    chunk = max(1, len(plain) // 4)  # a quarter of the logits at a time
    parts = []
    for reference, other, targets in zip(
        plain.split(chunk), products.split(chunk), window[1:].split(chunk), strict=True
    ):
        blocks = [head.logits(reference), head.logits(other)]
        loss = next_token_nll(log_normalize_(blocks[0].clone()), targets)
        compared = compare_(blocks[0], blocks[1], targets)
        parts.append(torch.stack([loss, compared.nll, compared.divergence.forward]).double())
    means = torch.cat(parts, dim=1).mean(dim=1)
    return _Run((plain_s, products_s), (float(means[0]), float(means[1])), float(means[2]))


def _decide(runs: Sequence[_Run], tokens: int) -> PrecisionDecision:
    """Decide from the runs over all windows; figures that are not finite decide for float32."""
    speedup = statistics.median(run.seconds[0] / run.seconds[1] for run in runs)
    shift = math.expm1(min(100.0, math.fsum(run.losses[1] - run.losses[0] for run in runs) / len(runs)))
    kl = math.fsum(run.kl for run in runs) / len(runs)
    stderr = math.sqrt(math.fsum((run.kl - kl) ** 2 for run in runs) / (len(runs) - 1) / len(runs))
    high = student(kl, stderr, len(runs)).high if math.isfinite(kl) else math.inf
    good = speedup >= MIN_SPEEDUP and high <= MAX_KL
    return PrecisionDecision("bfloat16" if good else "float32", speedup, kl, stderr, high, shift, tokens)


def _path(job: PrecisionJob, corpus_sha256: str) -> Path:
    machine = environment()
    key = [_VERSION, job.model_key, corpus_sha256, job.device, machine.cpu, machine.gpu, machine.threads,
           torch.__version__, transformers.__version__]  # fmt: skip
    return entry_path(job.places.cache_dir, "precision", key)
