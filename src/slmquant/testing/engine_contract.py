"""The contract of engines: sessions that keep a sequence, and torch's logits. Shipped for plug-ins, too.

In a test:

    from slmquant.testing.engine_contract import check_engine

    def test_my_engine():
        check_engine("my_engine", artifact_path, tokens, reference_logits)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmquant import engines
from slmquant.engine_bench.parity import log_softmax
from slmquant.engines.common.contract import Chooses, Engine, OpenOptions, Session
from slmquant.testing.contract import ContractError, Outcome, demand, demand_described

SAME_SEQUENCE_KL = 1e-3
"""Largest divergence, in nats, between a sequence fed at once and in pieces (other kernel shapes, rounded caches)."""


def check_engine(
    name: str, artifact: Path, tokens: Sequence[int], reference: NDArray[np.float32], divergence: float = 1e-2
) -> Outcome:
    """Check an engine's contract on one artifact.

    The engine describes itself, and says whether it can be used here and, if not, what to install. A session returns a
    row of logits for every fed token, which agrees with the reference; feeding in pieces gives the same as feeding at
    once; `reset` forgets the sequence; the context is a bound; a token that it chooses itself is the most probable.

    Args:
        name: Name of the engine.
        artifact: A file or folder in one of its formats.
        tokens: At least 8 token ids.
        reference: torch's logits after each token, `(len(tokens), vocab)`.
        divergence: Largest mean divergence from the reference, in nats.

    Raises:
        ContractError: The engine breaks a promise; the message says which.
    """
    engine = engines.load(name)
    try:
        demand_described(engine, "title", "summary")
        demand(len(engine.formats) > 0, "names a format that it opens")
        status = engine.status()
        if not status.usable:
            demand(bool(status.reason), "says why it cannot be used here")
            return Outcome(status.reason)
        _check_session(engine, artifact, list(tokens), reference, divergence)
    except ContractError as error:
        raise ContractError(f"{name}: {error}") from None
    return Outcome(None)


def _check_session(
    engine: Engine, artifact: Path, tokens: list[int], reference: NDArray[np.float32], divergence: float
) -> None:
    session = engine.open(artifact, OpenOptions(threads=1, context=len(tokens)))
    try:
        rows, vocab = session.feed(tokens, every=True), reference.shape[1]
        demand(session.vocab >= vocab, f"has a row for each of {vocab} tokens, not {session.vocab}")
        demand(rows.shape == (len(tokens), session.vocab), f"gives a row after every token; got {rows.shape}")
        demand(rows.dtype == np.float32, f"gives logits in float32, not {rows.dtype}")
        demand(bool(np.isfinite(rows[:, :vocab]).all()), "gives finite logits")
        distance = _divergence(reference, rows[:, :vocab])
        demand(distance <= divergence, f"agrees with torch within {divergence} nats, not {distance:.2g}")
        _check_bound(session, tokens[0], len(tokens))
        _check_pieces(session, tokens, rows)
        if isinstance(session, Chooses):
            session.reset()
            chosen, best = session.choose(tokens), int(rows[-1].argmax())
            demand(chosen == best, f"chooses its most probable token {best}, not {chosen}")
    finally:
        session.close()


def _check_bound(session: Session, token: int, context: int) -> None:
    try:
        session.feed([token])
    except ValueError as error:
        demand(str(context) in str(error), f"says that its context is {context}; got {str(error)!r}")
        return
    raise ContractError("refuses a token beyond its context with a ValueError")


def _check_pieces(session: Session, tokens: list[int], rows: NDArray[np.float32]) -> None:
    """Feed another sequence, reset, then feed the same one in three pieces, the last token alone."""
    session.reset()
    session.feed(tokens[::-1][: len(tokens) // 2])
    session.reset()
    middle = len(tokens) // 2
    first = session.feed(tokens[:middle])
    demand(first.shape == (1, session.vocab), f"gives one row after a prefill; got {first.shape}")
    session.feed(tokens[middle:-1])
    last = session.feed(tokens[-1:])
    for piece, whole, what in ((first, rows[middle - 1 : middle], "a prefill"), (last, rows[-1:], "a decoding step")):
        distance = _divergence(whole, piece)
        demand(distance <= SAME_SEQUENCE_KL, f"{what} gives what all at once gives; it is {distance:.2g} nats off")


def _divergence(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean KL divergence, in nats."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())
