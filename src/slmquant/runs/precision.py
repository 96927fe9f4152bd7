"""Which dtype linears multiply in: bfloat16 where it is faster and as good, decided by a measurement on the model.

All else stays in float32 (`model.quantized.multiply_in_`). Both dtypes run over the same windows of text;
bfloat16 is chosen where it is at least `MIN_SPEEDUP` times as fast and moves the perplexity by at most `MAX_SHIFT`.
The decision is kept in the cache for this model, machine and torch, so that a repeated run computes in the same dtype
whatever the machine's load.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.files import atomic_file
from slmquant.model.context import fitting
from slmquant.model.head import OutputHead
from slmquant.model.loading import load
from slmquant.model.quantized import multiply_in_
from slmquant.progress import Progress
from slmquant.runs.environment import environment, usable_cores
from slmquant.store.record import Metric

MIN_SPEEDUP = 1.1
"""bfloat16 has to be this much faster to be worth its rounding."""
MAX_SHIFT = 0.001
"""Largest relative change of perplexity that is accepted: 0.1 %."""

_WINDOWS, _WINDOW_TOKENS = 4, 1024
_VERSION = 4


@dataclass(frozen=True)
class PrecisionJob:
    """The model to decide for, and the text to decide on."""

    model: str
    model_key: str
    corpus: str
    device: str
    data_dir: Path | None
    cache_dir: Path


@dataclass(frozen=True)
class PrecisionDecision:
    """What was measured and what follows from it.

    Attributes:
        dtype: What to compute in.
        speedup: Seconds in float32 over seconds in bfloat16, the median over windows run in turn.
        perplexity_shift: `ppl(bfloat16) / ppl(float32) − 1` over `tokens` tokens.
        tokens: Tokens that both ran over.
    """

    dtype: Literal["float32", "bfloat16"]
    speedup: float
    perplexity_shift: float
    tokens: int

    def metrics(self) -> list[Metric]:
        """The measurement as rows carry it."""
        protocol = f"bfloat16 against float32 over {self.tokens} tokens; computed in {self.dtype}"
        return [
            Metric(name="bf16_speedup", value=self.speedup, unit="ratio", higher_is_better=None, protocol=protocol),
            Metric(
                name="bf16_perplexity_shift", value=self.perplexity_shift, unit="ratio", higher_is_better=None,
                n=self.tokens, protocol=protocol,
            ),
        ]  # fmt: skip


def decide_precision(job: PrecisionJob, progress: Progress) -> PrecisionDecision:
    """Measure, or read an earlier measurement of the same model on the same machine.

    Raises:
        DataError: The corpus is absent or too short.
    """
    path = _path(job)
    if path.exists():
        return PrecisionDecision(**json.loads(path.read_text()))
    torch.set_num_threads(usable_cores())
    corpus = load_corpus(job.corpus, job.data_dir, progress)
    plain, products = load(job.model, device=job.device), load(job.model, device=job.device)
    multiply_in_(products.model, torch.bfloat16)
    length = fitting(_WINDOW_TOKENS, plain.model.config)
    windows = calibration_windows(plain.tokenizer, corpus, _WINDOWS, length, 0).to(job.device)
    heads = (OutputHead(plain.model), OutputHead(products.model))
    for head in heads:
        _mean_loss(head, windows[0])  # the first run pays for setting things up
    progress.start("choose the compute dtype", len(windows))
    runs = []
    for window in windows:  # in turn, so that a machine that is busy for a while disturbs both alike
        runs.append([_timed(head, window) for head in heads])
        progress.advance()
    decision = _decide(runs, windows.numel())
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(decision)))
    return decision


@dataclass(frozen=True)
class _Run:
    """One window in one dtype."""

    seconds: float
    loss: float


def _timed(head: OutputHead, window: Tensor) -> _Run:
    started = time.perf_counter()
    loss = _mean_loss(head, window)
    return _Run(time.perf_counter() - started, loss)


def _decide(runs: Sequence[Sequence[_Run]], tokens: int) -> PrecisionDecision:
    """From (float32, bfloat16) of every window."""
    speedup = statistics.median(plain.seconds / products.seconds for plain, products in runs)
    shift = math.expm1(math.fsum(products.loss - plain.loss for plain, products in runs) / len(runs))
    good = speedup >= MIN_SPEEDUP and abs(shift) <= MAX_SHIFT  # a shift that is NaN is not good
    return PrecisionDecision("bfloat16" if good else "float32", speedup, shift, tokens)


def _mean_loss(head: OutputHead, window: Tensor) -> float:
    """Mean negative log-likelihood of a window, in nats, with at most a quarter of its logits at a time."""
    hidden = head.hidden(window[None])[0, :-1]
    targets = window[1:]
    chunk = max(1, len(targets) // 4)
    pairs = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    total = sum(float(F.cross_entropy(head.logits(states), wanted, reduction="sum")) for states, wanted in pairs)
    return total / len(targets)


def _path(job: PrecisionJob) -> Path:
    machine = environment()
    parts = [_VERSION, job.model_key, job.corpus, job.device, machine.cpu, machine.gpu, machine.threads,
             torch.__version__]  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    return job.cache_dir / "precision" / f"{digest}.json"
