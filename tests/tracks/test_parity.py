"""An engine is held against the reference by what a naive computation in float64 says, and what differs is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmquant.engines._base import OpenOptions
from slmquant.errors import ModelError, NumericalError
from slmquant.tracks._parity import KL_BOUND, Parity, Windows, _pieces, compare, write_reference
from tests.made_up_engines import VOCAB, Bigram

OPTIONS = OpenOptions(threads=1, context=200)
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(3, 150))
WINDOWS = Windows(tokens=tuple(tuple(int(t) for t in row) for row in TOKENS), text="made up")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    write_reference(Bigram(OPTIONS), WINDOWS, tmp_path / "reference")
    return tmp_path / "reference"


def log_probs(session: Bigram) -> np.ndarray:
    """One row for every prediction, with sums of exponentials as in a textbook."""
    rows = []
    for window in WINDOWS.tokens:
        for token in window[:-1]:
            logits = session._table[token].astype(float)
            rows.append([x - math.log(sum(math.exp(y) for y in logits)) for x in logits])
    return np.array(rows)


def test_the_same_model_agrees_with_itself(reference: Path) -> None:
    parity = compare(Bigram(OPTIONS), WINDOWS, reference)

    assert parity.predictions == WINDOWS.predictions == 3 * 149
    assert parity.perplexity == parity.reference_perplexity
    assert 0 <= parity.kl_mean <= parity.kl_max < 1e-5  # what float16 costs
    assert parity.top1_agreement == 1
    assert parity.refusal is None


def test_figures_are_those_of_the_definition(reference: Path) -> None:
    other = Bigram(OPTIONS, temper=1.05)
    p, q = log_probs(Bigram(OPTIONS)), log_probs(other)
    targets = [token for window in WINDOWS.tokens for token in window[1:]]
    kl = [sum(math.exp(a) * (a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]

    parity = compare(other, WINDOWS, reference)

    assert parity.perplexity == pytest.approx(math.exp(-np.mean([q[i, t] for i, t in enumerate(targets)])))
    assert parity.reference_perplexity == pytest.approx(math.exp(-np.mean([p[i, t] for i, t in enumerate(targets)])))
    assert parity.kl_mean == pytest.approx(np.mean(kl), abs=1e-5)
    assert parity.kl_max == pytest.approx(max(kl), abs=1e-4)
    losses = [q[i, t] - p[i, t] for i, t in enumerate(targets)]
    assert parity.log_change_stderr == pytest.approx(np.std(losses, ddof=1) / math.sqrt(len(losses)))
    assert parity.kl_stderr == pytest.approx(np.std(kl, ddof=1) / math.sqrt(len(kl)), rel=0.01)


def test_another_model_is_refused_with_the_difference(reference: Path) -> None:
    parity = compare(Bigram(OPTIONS, temper=1.5), WINDOWS, reference)

    assert parity.refusal is not None
    assert f"{parity.perplexity_change:+.2%}" in parity.refusal


def test_a_divergence_is_refused_where_the_perplexity_hides_it(reference: Path) -> None:
    alike = compare(Bigram(OPTIONS), WINDOWS, reference)

    reason = replace(alike, kl_mean=2 * KL_BOUND).refusal

    assert reason is not None and f"{2 * KL_BOUND:.4f} nats" in reason


def test_a_perplexity_that_is_no_number_is_refused(reference: Path) -> None:
    alike = compare(Bigram(OPTIONS), WINDOWS, reference)

    assert replace(alike, perplexity=float("nan")).refusal is not None


def test_an_engine_that_only_decodes_wrongly_is_refused(reference: Path) -> None:
    class Decoder(Bigram):
        def feed(self, tokens, *, every=False):
            logits = super().feed(tokens, every=every)
            return logits[..., ::-1] if len(tokens) == 1 else logits

    assert compare(Decoder(OPTIONS), WINDOWS, reference).refusal is not None


@pytest.mark.parametrize("length", [1, 2, 17, 31, 64, 100, 511])
def test_every_token_is_fed_once_and_the_last_alone(length: int) -> None:
    pieces = list(_pieces(length))

    assert [token for start, stop in pieces for token in range(start, stop)] == list(range(length))
    assert all(stop > start for start, stop in pieces)
    assert pieces[-1] == (length - 1, length)


def test_padding_of_the_vocabulary_does_not_matter(reference: Path) -> None:
    parity = compare(Bigram(OPTIONS, padding=5), WINDOWS, reference)

    assert parity.kl_mean < 1e-5 and parity.refusal is None


def test_what_cannot_be_compared_is_told(reference: Path) -> None:
    other = Windows(tokens=tuple(row[::-1] for row in WINDOWS.tokens), text="another")
    with pytest.raises(ModelError, match="of other text"):
        compare(Bigram(OPTIONS), other, reference)

    class Narrow(Bigram):
        vocab = VOCAB - 1

    with pytest.raises(ModelError, match="lacks token 10"):
        compare(Narrow(OPTIONS), WINDOWS, reference)

    class Flat(Bigram):
        def feed(self, tokens, *, every=False):
            return super().feed(tokens)

    with pytest.raises(ModelError, match=r"logits of shape \(1, 11\) for 64 tokens"):
        compare(Flat(OPTIONS), WINDOWS, reference)


def test_logits_that_are_no_numbers_are_an_error(reference: Path) -> None:
    broken = Bigram(OPTIONS, temper=float("nan"))

    with pytest.raises(NumericalError, match="not finite after 64 tokens"):
        compare(broken, WINDOWS, reference)


def test_a_perplexity_is_out_of_bounds_only_by_what_is_shown() -> None:
    same = Parity(1000, 20.0, 20.0, 0.003, 0.002, 0.1, 1e-4, 0.99)
    assert replace(same, perplexity=20.2).refusal is None  # 1 % ± 0.3 %: half of a per cent is not ruled out
    assert "computes another model" in (replace(same, perplexity=20.3).refusal or "")
    assert replace(same, perplexity=20.2, log_change_stderr=0.001).refusal is not None
    assert replace(same, perplexity=float("nan")).refusal is not None
    assert "mean KL" in (replace(same, kl_mean=0.011).refusal or "")
