"""Whether an engine computes what was evaluated: its next-token distributions against the torch reference's.

The reference writes its log-probabilities of fixed windows once; every engine is fed the same tokens, in pieces, so
that its key-value cache takes part, and is compared row by row. Both run in processes of their own, and no more than
`_ROWS` rows of logits are in float64 at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmquant.engines.common.contract import Session
from slmquant.errors import ModelError, NumericalError
from slmquant.files import atomic_dir, require_space

FILE_VERSION = 1
"""Of what `write_reference` writes."""

SHARE = 0.1
"""An engine may add this share of what quantization itself costs: its cell's divergence from full precision."""

KL_FLOOR = 0.001
"""Mean KL(reference‖engine) in nats that is allowed to a cell of full precision. Computing in bfloat16, which moves no
table's digit, costs 0.0003 (products alone) to 0.0008 (all of it, vLLM) on SmolLM2-135M; the engines tried here cost
0.00001 and less on stories15m.
"""

KERNEL_FLOOR = 0.004
"""The same of a cell with quantized weights, whatever it costs itself, and where nobody knows what full precision says.
Kernels for such weights round what they multiply them with to eight bits, in blocks: llama.cpp's for every type, ONNX
Runtime's at the accuracy level of its builder. That alone is 0.0027 nats on stories15m at W8A16g32, with both, as much
as quantizing costs there; OpenVINO, which does not, is within 0.00001. The row says how much it is.
"""

LOSS_FLOOR = 0.01
"""The same of the mean loss's change, in nats: one per cent of the perplexity. Losses of an engine that is off by
`KL_FLOOR` and right on average differ by √(2 · 0.001) from the reference's, so that their mean over 2000 predictions
is 0 ± 0.001, which passes with room; an error that goes one way does not. Beyond the floor as much is allowed as of the
divergence, which is what the loss grows by on text that the reference itself would write.
"""

_STANDARD_ERRORS = 2.0
"""Half the width of an interval that decides."""

_BLOCK = 64
"""Predictions in a row that are one independent draw: neighbours are alike."""

_PIECE = 64
"""Tokens that are fed at a time."""

_SINGLES = 16
"""Tokens at the end of a window that are fed one by one, as in decoding: engines have other kernels for that."""

_ROWS = 16
"""Rows of logits in float64 at a time."""

_LOG_PROBS, _NLL, _TOKENS = "log_probs.npy", "nll.npy", "tokens.npy"


@dataclass(frozen=True)
class Windows:
    """Fixed text as token ids: every window is fed anew, and every token but its first is predicted.

    Attributes:
        tokens: Equally long windows.
        text: What they were cut from, as a protocol says it.
    """

    tokens: tuple[tuple[int, ...], ...]
    text: str

    @property
    def predictions(self) -> int:
        """How many tokens are predicted."""
        return sum(len(window) - 1 for window in self.tokens)

    @property
    def protocol(self) -> str:
        """How much of which text."""
        windows = f"{len(self.tokens)} windows of {len(self.tokens[0])} tokens"
        return f"{self.text}, {windows}, fed {_PIECE} at a time and the last {_SINGLES} one by one"


@dataclass(frozen=True)
class Parity:
    """An engine against the reference of the same artifact.

    Attributes:
        predictions: How many tokens were predicted.
        perplexity: The engine's.
        reference_perplexity: The reference's.
        log_change_stderr: Standard error of the logarithm of their ratio, from the paired losses.
        kl_mean: Mean KL(reference‖engine), nats.
        kl_max: The largest of a single prediction.
        kl_stderr: Standard error of the mean. Both errors take blocks of predictions as independent.
        top1_agreement: Share of predictions where both find the same token the most probable.
        own_kl: Mean KL(full precision‖reference): what quantization itself costs on this text; None where full
            precision is not known, 0 where it is the reference.
    """

    predictions: int
    perplexity: float
    reference_perplexity: float
    log_change_stderr: float
    kl_mean: float
    kl_max: float
    kl_stderr: float
    top1_agreement: float
    own_kl: float | None = None

    @property
    def kl_bound(self) -> float:
        """How far off the engine may be: a share of what quantization costs, and no less than a floor."""
        return max(self._floor, SHARE * (self.own_kl or 0.0))

    @property
    def _floor(self) -> float:
        return KL_FLOOR if self.own_kl == 0 else KERNEL_FLOOR

    @property
    def loss_bound(self) -> float:
        """How much the mean loss may change, in nats."""
        return max(LOSS_FLOOR, self.kl_bound)

    @property
    def perplexity_change(self) -> float:
        """Relative difference of the engine's perplexity from the reference's, signed."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def refusal(self) -> str | None:
        """Why the engine is not shown to compute the reference; None where it is.

        What decides are the ends of intervals of two standard errors. An upper end within the bounds passes, a lower
        end beyond one is another model, and what lies between needs more text: the less there is of it, the less
        passes.
        """
        shown = [
            (self.kl_mean, self.kl_stderr, self.kl_bound),
            (self._loss_change, self.log_change_stderr, self.loss_bound),
        ]
        # `not <=`, so that what is not a number does not pass
        if all(value + _STANDARD_ERRORS * error <= bound for value, error, bound in shown):
            return None
        is_other = any(not value - _STANDARD_ERRORS * error <= bound for value, error, bound in shown)
        found = (
            f"mean KL to the reference {self.kl_mean:.5f} ± {self.kl_stderr:.5f} nats where {self._allowed}, "
            f"perplexity {self.perplexity:.4f} against {self.reference_perplexity:.4f}, {self.perplexity_change:+.2%} "
            f"± {self.log_change_stderr:.2%} where {self.loss_bound:.1%} is"
        )
        if is_other:
            return f"the engine computes another model: {found}"
        return (
            f"not enough text to tell whether the engine computes the same model: {found}; "
            f"{self.predictions} predictions leave it open"
        )

    @property
    def _loss_change(self) -> float:
        return abs(math.log(self.perplexity / self.reference_perplexity))

    @property
    def _allowed(self) -> str:
        if self.kl_bound > self._floor:
            return f"{self.kl_bound:.5f} is allowed, a tenth of the {self.own_kl:.4f} that quantization costs"
        if self.own_kl is None:
            return f"{self._floor:g} is allowed, as nobody says what full precision computes"
        return f"{self._floor:g} is allowed"


def write_reference(session: Session, windows: Windows, folder: Path) -> None:
    """Keep the reference's log-probabilities of every prediction in `folder`, whole or not at all.

    float16 halves the file. Read back and normalized again they are off by 4e-3 nats at most where a token has
    less than e^-8, by less where it is likely; that moves a mean KL by about 1e-6. The losses are kept exactly.

    Raises:
        NumericalError: A logit is not finite.
        SpaceError: They do not fit on the disk.
    """
    shape = (windows.predictions, session.vocab)
    require_space(folder.parent, math.prod(shape) * np.dtype(np.float16).itemsize)  # a mapped file that finds none ends
    with atomic_dir(folder) as temporary:  # the process without a word
        kept = np.lib.format.open_memmap(temporary / _LOG_PROBS, mode="w+", dtype=np.float16, shape=shape)
        nll = np.empty(windows.predictions)
        for start, targets, logits in _rows(session, windows):
            log_probs = _log_softmax(logits)
            kept[start : start + len(targets)] = np.maximum(log_probs, np.finfo(np.float16).min)
            nll[start : start + len(targets)] = -log_probs[np.arange(len(targets)), targets]
        kept.flush()
        del kept  # a file that is mapped cannot be moved on Windows
        np.save(temporary / _NLL, nll)
        np.save(temporary / _TOKENS, np.asarray(windows.tokens))


def compare(session: Session, windows: Windows, folder: Path, full: Path | None = None) -> Parity:
    """Feed the windows to an engine and compare with what `write_reference` kept.

    Where one of the two pads its vocabulary, the tokens that both have are compared, normalized over them.

    Args:
        session: The engine's.
        windows: What the reference was fed.
        folder: What was kept of the reference.
        full: The same of the full-precision model, the reference itself where it is that; None where it is not known.

    Raises:
        ModelError: The reference is of other tokens, or the engine lacks one of them.
        NumericalError: A logit is not finite.
    """
    if not np.array_equal(np.load(folder / _TOKENS), np.asarray(windows.tokens)):
        raise ModelError(f"the reference log-probabilities in {folder} are of other text; delete that folder")
    kept, reference_nll = np.load(folder / _LOG_PROBS, mmap_mode="r"), np.load(folder / _NLL)
    vocab = min(kept.shape[1], session.vocab)
    highest = max(max(window) for window in windows.tokens)
    if highest >= vocab:
        raise ModelError(f"the engine's vocabulary of {session.vocab} lacks token {highest} of the reference's text")
    nll, kl = np.empty(windows.predictions), np.empty(windows.predictions)
    agree = 0
    for start, targets, logits in _rows(session, windows):
        rows = slice(start, start + len(targets))
        mine = _log_softmax(logits[:, :vocab])
        theirs = _log_softmax(kept[rows, :vocab])
        nll[rows] = -mine[np.arange(len(targets)), targets]
        kl[rows] = (np.exp(theirs) * (theirs - mine)).sum(axis=1)
        agree += int((mine.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    return Parity(
        predictions=len(nll),
        perplexity=math.exp(nll.mean()),
        reference_perplexity=math.exp(reference_nll.mean()),
        log_change_stderr=_stderr(nll - reference_nll),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        kl_stderr=_stderr(kl),
        top1_agreement=agree / len(nll),
        own_kl=0.0 if full == folder else None if full is None else _own_kl(folder, full),
    )


def _own_kl(folder: Path, full: Path) -> float | None:
    """Mean KL(full precision‖reference) of what was kept; None where the two are of other text."""
    if not np.array_equal(np.load(folder / _TOKENS), np.load(full / _TOKENS)):
        return None
    quantized, original = (np.load(each / _LOG_PROBS, mmap_mode="r") for each in (folder, full))
    vocab = min(quantized.shape[1], original.shape[1])
    total = 0.0
    for start in range(0, len(quantized), _ROWS):
        p, q = (_log_softmax(kept[start : start + _ROWS, :vocab]) for kept in (original, quantized))
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(quantized)


def _stderr(values: NDArray[np.float64]) -> float:
    """Standard error of the mean from the sums over blocks of neighbours; of few values, from the values."""
    blocks = np.array_split(values, max(1, len(values) // _BLOCK))
    if len(blocks) < 2:
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    off = np.array([(block - values.mean()).sum() for block in blocks])
    return float(math.sqrt(len(blocks) / (len(blocks) - 1) * (off**2).sum()) / len(values))


def _rows(session: Session, windows: Windows) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Number of the first prediction, true next tokens and logits, a few rows at a time; what is last is not fed."""
    first = 0
    for window in windows.tokens:
        session.reset()
        for start, stop in _pieces(len(window) - 1):
            fed = window[start:stop]
            logits = session.feed(fed, every=True)
            if logits.shape != (len(fed), session.vocab):
                raise ModelError(f"the engine gave logits of shape {logits.shape} for {len(fed)} tokens")
            if not np.isfinite(logits).all():
                raise NumericalError(f"the engine's logits are not finite after {stop} tokens")
            targets = np.asarray(window[start + 1 : stop + 1])
            for row in range(0, len(fed), _ROWS):
                yield first + row, targets[row : row + _ROWS], logits[row : row + _ROWS]
            first += len(fed)


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """Where the parts of `length` tokens that are fed together begin and end; a short window ends one by one, too."""
    alone = max(length - _SINGLES, length // 2)
    for start in range(0, alone, _PIECE):
        yield start, min(start + _PIECE, alone)
    for start in range(alone, length):
        yield start, start + 1


def _log_softmax(rows: Sequence[Sequence[float]] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities, `(rows, vocab)` in float64."""
    wide = np.asarray(rows, dtype=np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result
