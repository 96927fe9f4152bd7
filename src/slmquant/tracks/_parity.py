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

from slmquant.engines._base import Session
from slmquant.errors import ModelError, NumericalError
from slmquant.files import atomic_dir

FILE_VERSION = 1
"""Of what `write_reference` writes."""

PERPLEXITY_BOUND = 0.005
"""Relative difference of the perplexities beyond which an engine does not compute the same model.

The difference on a short text has an error of its own: an engine that rounds activations to 8 bits and is right on
average is off by half of a per cent on a thousand tokens. So what counts is the difference that is shown: that much
less two standard errors.
"""

_STANDARD_ERRORS = 2.0

KL_BOUND = 0.01
"""Mean KL(reference‖engine) in nats beyond which it does not.

Engines that round activations to 8 bits before a product differ by up to a few thousandths on small models; rounding
weights to 4 bits costs them several hundredths to tenths. The bound lies between the two.
"""

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
        kl_stderr: Standard error of the mean. Both errors take predictions as independent.
        top1_agreement: Share of predictions where both find the same token the most probable.
    """

    predictions: int
    perplexity: float
    reference_perplexity: float
    log_change_stderr: float
    kl_mean: float
    kl_max: float
    kl_stderr: float
    top1_agreement: float

    @property
    def perplexity_change(self) -> float:
        """Relative difference of the engine's perplexity from the reference's, signed."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def refusal(self) -> str | None:
        """What is out of bounds, with the difference; None where both agree."""
        # `not <=`, so that what is not a number is out of bounds
        if not abs(self.perplexity_change) - _STANDARD_ERRORS * self.log_change_stderr <= PERPLEXITY_BOUND:
            return (
                f"the engine computes another model: perplexity {self.perplexity:.4f} against the reference's "
                f"{self.reference_perplexity:.4f}, {self.perplexity_change:+.2%} ± {self.log_change_stderr:.2%}, where "
                f"{PERPLEXITY_BOUND:.1%} is allowed (mean KL {self.kl_mean:.4f} nats)"
            )
        if not self.kl_mean <= KL_BOUND:
            return (
                f"the engine computes another model: mean KL to the reference is {self.kl_mean:.4f} nats, where "
                f"{KL_BOUND:g} is allowed (perplexity {self.perplexity_change:+.2%})"
            )
        return None


def write_reference(session: Session, windows: Windows, folder: Path) -> None:
    """Keep the reference's log-probabilities of every prediction in `folder`, whole or not at all.

    float16 halves the file. Read back and normalized again they are off by 4e-3 nats at most where a token has
    less than e^-8, by less where it is likely; that moves a mean KL by about 1e-6. The losses are kept exactly.

    Raises:
        NumericalError: A logit is not finite.
    """
    with atomic_dir(folder) as temporary:
        shape = (windows.predictions, session.vocab)
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


def compare(session: Session, windows: Windows, folder: Path) -> Parity:
    """Feed the windows to an engine and compare with what `write_reference` kept.

    Where one of the two pads its vocabulary, the tokens that both have are compared, normalized over them.

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
        log_change_stderr=float((nll - reference_nll).std(ddof=1) / math.sqrt(len(nll))),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        kl_stderr=float(kl.std(ddof=1) / math.sqrt(len(kl))),
        top1_agreement=agree / len(nll),
    )


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
