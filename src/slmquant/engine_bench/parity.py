"""Parity: does an engine compute the evaluated model? Compares its next-token distributions with torch's.

The torch reference writes its log-probabilities of fixed windows once. Every engine is fed the same tokens, in pieces
so that its key-value cache is used, and is compared row by row. Reference and engine run in separate processes, and at
most `_ROWS` rows of logits are in float64 at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmquant.cache.entries import using
from slmquant.cache.write import About, writing
from slmquant.engine_bench.agreement import Parity
from slmquant.engines.common.contract import Nudged, Session
from slmquant.errors import ModelError, NumericalError
from slmquant.files import require_space

FILE_VERSION = 2
"""Version of the files that `write_reference` writes."""

_BLOCK = 64
"""Consecutive predictions that count as one independent draw, because neighbours are correlated."""

_PIECE = 64
"""Tokens fed at a time."""

_SINGLES = 16
"""Tokens at the end of a window that are fed one by one, as in decoding: engines use other kernels for that."""

_ROWS = 16
"""Rows of logits held in float64 at a time."""

_LOG_PROBS, _NLL, _TOKENS, _NOISE = "log_probs.npy", "nll.npy", "tokens.npy", "noise.npy"


@dataclass(frozen=True)
class Windows:
    """Fixed text as token ids: each window starts a new sequence, and all its tokens but the first are predicted.

    Attributes:
        tokens: Windows of equal length.
        text: Name of the text they were cut from, for protocols.
    """

    tokens: tuple[tuple[int, ...], ...]
    text: str

    @property
    def predictions(self) -> int:
        """Number of predicted tokens."""
        return sum(len(window) - 1 for window in self.tokens)

    @property
    def protocol(self) -> str:
        """Text and amount, for protocols."""
        windows = f"{len(self.tokens)} windows of {len(self.tokens[0])} tokens"
        return f"{self.text}, {windows}, fed {_PIECE} at a time and the last {_SINGLES} one by one"


def write_reference(session: Session, windows: Windows, folder: Path, model: str) -> None:
    """Write the reference's log-probabilities of every prediction to the cache entry `folder`.

    float16 halves the file. Read back and normalized again, they are off by at most 4e-3 nats for a token with a
    probability below e^-8, by less for a likely one; that moves a mean KL by about 1e-6. Losses are stored exactly.

    A model that rounds activations is read a second time with nudged embeddings, and its divergence from itself is
    stored, see `agreement.NOISE_SHARE`.

    Raises:
        NumericalError: A logit is not finite.
        SpaceError: The disk has too little free space.
    """
    shape = (windows.predictions, session.vocab)
    # without space, writing to a mapped file would end the process without a message
    require_space(folder.parent, math.prod(shape) * np.dtype(np.float16).itemsize)
    about = About(model, f"log-probabilities on {windows.text}, {windows.predictions} tokens")
    with writing(folder, about) as temporary:
        stored = np.lib.format.open_memmap(temporary / _LOG_PROBS, mode="w+", dtype=np.float16, shape=shape)
        nll = np.empty(windows.predictions)
        for start, targets, logits in _rows(session, windows):
            log_probs = log_softmax(logits)
            stored[start : start + len(targets)] = np.maximum(log_probs, np.finfo(np.float16).min)
            nll[start : start + len(targets)] = -log_probs[np.arange(len(targets)), targets]
        if isinstance(session, Nudged) and session.rounds_activations:
            with session.nudged():
                np.save(temporary / _NOISE, _divergence(session, windows, stored))
        stored.flush()
        del stored  # a mapped file cannot be moved on Windows
        np.save(temporary / _NLL, nll)
        np.save(temporary / _TOKENS, np.asarray(windows.tokens))


def compare(session: Session, windows: Windows, folder: Path, full: Path | None = None) -> Parity:
    """Feed the windows to an engine and compare it with the entry that `write_reference` wrote.

    If one of the two pads its vocabulary, only the tokens that both have are compared, normalized over them.

    Args:
        session: A session of the engine.
        windows: The windows that the reference was fed.
        folder: The reference's log-probabilities.
        full: The full-precision model's; equal to `folder` if it is the reference, None if unknown.

    Raises:
        ModelError: The reference was written for other tokens, or the engine's vocabulary lacks one of them.
        CacheError: The reference is gone or was damaged.
        NumericalError: A logit is not finite.
    """
    with using(folder), nullcontext() if full is None else using(full):
        return _compare(session, windows, folder, full)


def _compare(session: Session, windows: Windows, folder: Path, full: Path | None) -> Parity:
    if not np.array_equal(np.load(folder / _TOKENS), np.asarray(windows.tokens)):
        raise ModelError(
            f"the reference log-probabilities in {folder} are of other text; delete that folder and run again"
        )
    stored, reference_nll = np.load(folder / _LOG_PROBS, mmap_mode="r"), np.load(folder / _NLL)
    vocab = min(stored.shape[1], session.vocab)
    highest = max(max(window) for window in windows.tokens)
    if highest >= vocab:
        raise ModelError(f"the engine's vocabulary of {session.vocab} lacks token {highest} of the reference's text")
    nll, kl = np.empty(windows.predictions), np.empty(windows.predictions)
    noise = float(np.load(folder / _NOISE).mean()) if (folder / _NOISE).exists() else None
    original = None if noise is None or full is None else _of_same_text(folder, full, vocab)
    cost = np.empty(windows.predictions)
    agree = 0
    for start, targets, logits in _rows(session, windows):
        rows = slice(start, start + len(targets))
        engine = log_softmax(logits[:, :vocab])
        reference = log_softmax(stored[rows, :vocab])
        nll[rows] = -engine[np.arange(len(targets)), targets]
        kl[rows] = _row_kl(reference, engine)
        if original is not None:
            exact = log_softmax(original[rows, :vocab])
            cost[rows] = _row_kl(exact, engine) - _row_kl(exact, reference)
        agree += int((engine.argmax(axis=1) == reference.argmax(axis=1)).sum())
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
        own_noise=noise,
        cost_change=None if original is None else float(cost.mean()),
        cost_change_stderr=math.inf if original is None else _stderr(cost),
    )


def _own_kl(folder: Path, full: Path) -> float | None:
    """Mean KL(full precision‖reference) of two stored references; None if their texts differ."""
    original, quantized = _of_same_text(folder, full), np.load(folder / _LOG_PROBS, mmap_mode="r")
    if original is None:
        return None
    vocab = min(quantized.shape[1], original.shape[1])
    total = 0.0
    for start in range(0, len(quantized), _ROWS):
        p, q = (log_softmax(stored[start : start + _ROWS, :vocab]) for stored in (original, quantized))
        total += float(_row_kl(p, q).sum())
    return total / len(quantized)


def _of_same_text(folder: Path, full: Path, vocab: int = 0) -> NDArray[np.float16] | None:
    """The full-precision model's log-probabilities; None if they are of other text, or of fewer tokens than `vocab`."""
    if not np.array_equal(np.load(folder / _TOKENS), np.load(full / _TOKENS)):
        return None
    stored: NDArray[np.float16] = np.load(full / _LOG_PROBS, mmap_mode="r")
    return stored if stored.shape[1] >= vocab else None


def _divergence(session: Session, windows: Windows, stored: NDArray[np.float16]) -> NDArray[np.float64]:
    """KL(stored‖session) of each prediction."""
    kl = np.empty(windows.predictions)
    for start, targets, logits in _rows(session, windows):
        rows = slice(start, start + len(targets))
        kl[rows] = _row_kl(log_softmax(stored[rows]), log_softmax(logits))
    return kl


def _row_kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL of each row of two arrays of log-probabilities, in nats."""
    divergence: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return divergence


def _stderr(values: NDArray[np.float64]) -> float:
    """Standard error of the mean from sums over blocks of neighbours; from single values if they are few."""
    blocks = np.array_split(values, max(1, len(values) // _BLOCK))
    if len(blocks) < 2:
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    off = np.array([(block - values.mean()).sum() for block in blocks])
    return float(math.sqrt(len(blocks) / (len(blocks) - 1) * (off**2).sum()) / len(values))


def _rows(session: Session, windows: Windows) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield index of the first prediction, true next tokens and logits, a few rows at a time.

    The last token of a window is not fed.
    """
    first = 0
    for window in windows.tokens:
        session.reset()
        for start, stop in _pieces(len(window) - 1):
            piece = window[start:stop]
            logits = session.feed(piece, every=True)
            if logits.shape != (len(piece), session.vocab):
                raise ModelError(f"the engine gave logits of shape {logits.shape} for {len(piece)} tokens")
            if not np.isfinite(logits).all():
                raise NumericalError(f"the engine's logits are not finite after {stop} tokens")
            targets = np.asarray(window[start + 1 : stop + 1])
            for row in range(0, len(piece), _ROWS):
                yield first + row, targets[row : row + _ROWS], logits[row : row + _ROWS]
            first += len(piece)


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each piece of `length` tokens that is fed together; also a short window ends one by one."""
    alone = max(length - _SINGLES, length // 2)
    for start in range(0, alone, _PIECE):
        yield start, min(start + _PIECE, alone)
    for start in range(alone, length):
        yield start, start + 1


def log_softmax(rows: Sequence[Sequence[float]] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities, `(rows, vocab)` in float64."""
    wide = np.asarray(rows, dtype=np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result
