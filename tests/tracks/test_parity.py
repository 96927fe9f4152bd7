"""An engine is held against the reference by what a naive computation in float64 says, and what differs is refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slmquant.engine_bench.agreement import KERNEL_FLOOR, NOISE_SHARE, SHARE, Parity
from slmquant.engine_bench.parity import (
    Windows,
    _pieces,
    _stderr,
    compare,
    write_reference,
)
from slmquant.engines.common.contract import OpenOptions
from slmquant.errors import ModelError, NumericalError, SpaceError
from tests.made_up_engines import VOCAB, Bigram
from tests.narrowed import present

OPTIONS = OpenOptions(threads=1, context=200)
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(3, 150))
WINDOWS = Windows(tokens=tuple(tuple(int(t) for t in row) for row in TOKENS), text="made up")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    write_reference(Bigram(OPTIONS), WINDOWS, tmp_path / "reference", "bigram")
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
    losses = [p[i, t] - q[i, t] for i, t in enumerate(targets)]
    assert parity.log_change_stderr == pytest.approx(stderr_of_blocks(losses))
    assert parity.kl_stderr == pytest.approx(stderr_of_blocks(kl), rel=0.01)
    assert parity.own_kl is None


def stderr_of_blocks(values: list[float]) -> float:
    """Of a mean, leaving out one of six blocks after the other (they differ in length by one value)."""
    blocks = np.array_split(np.array(values), 6)
    mean, whole = np.mean(values), len(values)
    return math.sqrt(6 / 5 * sum((sum(block) - len(block) * mean) ** 2 for block in blocks)) / whole


def test_neighbours_that_are_alike_are_not_taken_for_independent_draws() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        noise = rng.standard_normal(4200)
        for place in range(1, len(noise)):
            noise[place] += 0.8 * noise[place - 1]
        values = noise[200:]
        covered += abs(values.mean()) <= 1.96 * _stderr(values)
    assert covered / 400 > 0.90  # as independent values they are covered by a third of that width: 0.48


def test_another_model_is_refused_with_the_difference(reference: Path) -> None:
    parity = compare(Bigram(OPTIONS, temper=1.5), WINDOWS, reference)

    assert parity.refusal is not None
    assert f"{parity.perplexity_change:+.2%}" in parity.refusal


def test_a_divergence_is_refused_where_the_perplexity_hides_it(reference: Path) -> None:
    alike = compare(Bigram(OPTIONS), WINDOWS, reference)

    reason = replace(alike, kl_mean=2 * KERNEL_FLOOR).refusal

    assert reason is not None and f"{2 * KERNEL_FLOOR:.5f} ± " in reason


def test_what_quantization_costs_is_measured_on_the_same_text(reference: Path, tmp_path: Path) -> None:
    full = Bigram(OPTIONS, temper=1.4)
    write_reference(full, WINDOWS, tmp_path / "full", "full")
    p, q = log_probs(full), log_probs(Bigram(OPTIONS))

    parity = compare(Bigram(OPTIONS), WINDOWS, reference, tmp_path / "full")

    assert parity.own_kl == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), abs=1e-5)
    assert parity.kl_bound == pytest.approx(SHARE * present(parity.own_kl))
    assert compare(Bigram(OPTIONS), WINDOWS, reference, reference).own_kl == 0
    other = Windows(tokens=tuple(row[::-1] for row in WINDOWS.tokens), text="another")
    write_reference(full, other, tmp_path / "other", "full")
    assert compare(Bigram(OPTIONS), WINDOWS, reference, tmp_path / "other").own_kl is None


def test_a_perplexity_that_is_no_number_is_refused(reference: Path) -> None:
    alike = compare(Bigram(OPTIONS), WINDOWS, reference)

    assert replace(alike, perplexity=float("nan")).refusal is not None


def test_an_engine_that_only_decodes_wrongly_is_refused(reference: Path) -> None:
    class Decoder(Bigram):
        def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
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
        def feed(self, tokens: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
            return super().feed(tokens)

    with pytest.raises(ModelError, match=r"logits of shape \(1, 11\) for 64 tokens"):
        compare(Flat(OPTIONS), WINDOWS, reference)


def test_logits_that_are_no_numbers_are_an_error(reference: Path) -> None:
    broken = Bigram(OPTIONS, temper=float("nan"))

    with pytest.raises(NumericalError, match="not finite after 64 tokens"):
        compare(broken, WINDOWS, reference)


SAME = Parity(2000, 20.0, 20.0, 0.001, 0.0004, 0.1, 1e-4, 0.99, own_kl=0.45)


class Chaotic(Bigram):
    """A model that rounds activations: nudged, it computes with another temperature."""

    rounds_activations = True

    @contextmanager
    def nudged(self) -> Iterator[None]:
        kept, self._table = self._table, self._table * 1.2
        yield
        self._table = kept


def test_the_noise_of_rounded_activations_is_the_references_divergence_from_itself(tmp_path: Path) -> None:
    full = Bigram(OPTIONS, temper=1.4)
    write_reference(full, WINDOWS, tmp_path / "full", "full")
    write_reference(Chaotic(OPTIONS), WINDOWS, tmp_path / "rounded", "rounded")
    nudged = Bigram(OPTIONS)
    nudged._table = nudged._table * 1.2
    exact, p, q = log_probs(full), log_probs(Chaotic(OPTIONS)), log_probs(nudged)

    parity = compare(nudged, WINDOWS, tmp_path / "rounded", tmp_path / "full")

    noise = (np.exp(p) * (p - q)).sum(axis=1).mean()
    assert parity.own_noise == pytest.approx(noise, abs=1e-5) and parity.kl_mean == pytest.approx(noise, abs=1e-5)
    assert parity.kl_bound == pytest.approx(NOISE_SHARE * noise, rel=1e-3)
    assert parity.cost_change == pytest.approx((np.exp(exact) * (p - q)).sum(axis=1).mean(), abs=1e-5)
    assert compare(Bigram(OPTIONS), WINDOWS, tmp_path / "full").own_noise is None


def test_an_engine_within_the_noise_must_still_cost_what_the_reference_costs() -> None:
    """An engine that rounds more finely, or not at all, is within the noise of W8A8 too: its cost tells it apart."""
    noisy = replace(SAME, kl_mean=0.036, own_kl=0.04, own_noise=0.038, cost_change=0.001, cost_change_stderr=0.001)

    assert noisy.refusal is None
    assert "another model" in (replace(noisy, cost_change=-0.02).refusal or "")
    assert "too few to tell" in (replace(noisy, cost_change=0.007).refusal or "")
    assert "another model" in (replace(noisy, own_noise=None, cost_change=None).refusal or "")
    assert "another model" in (replace(noisy, cost_change=None).refusal or "")  # full precision is not known
    assert "0.0380 from itself" in (replace(noisy, kl_mean=0.09).refusal or "")


def test_an_engine_may_add_a_tenth_of_what_quantization_costs() -> None:
    """0.0089 nats is all that 8 bits cost: an engine that adds 0.008 to them computes another model."""
    off = replace(SAME, kl_mean=0.008)

    assert off.refusal is None
    assert "another model" in (replace(off, own_kl=0.0089).refusal or "")
    assert "0.00890 allowed" not in (replace(off, own_kl=0.0089).refusal or "")
    assert "another model" in (replace(off, own_kl=0.0).refusal or "")
    assert "the full-precision model being unknown" in (replace(off, own_kl=None).refusal or "")
    assert replace(SAME, own_kl=0.0).refusal is None


def test_full_precision_is_held_closer_than_kernels_that_round_their_inputs() -> None:
    rounding = replace(SAME, kl_mean=0.0027, kl_stderr=0.0001)

    assert rounding.kl_bound > 0.004
    assert replace(rounding, own_kl=0.003).refusal is None
    assert "0.001 allowed" in (replace(rounding, own_kl=0.0).refusal or "")
    assert "0.004 allowed" in (replace(rounding, own_kl=0.003, kl_mean=0.006).refusal or "")


@pytest.mark.parametrize("own_kl", [0.0, 0.45])
def test_less_text_never_allows_more(own_kl: float) -> None:
    """Standard errors grow as text gets less; at no error does one pass that did not with a smaller one."""
    errors = [0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0.1]
    for change in (0.0, 0.002, 0.004, 0.006, 0.03, 0.08):
        for kl in (1e-5, 5e-4, 9e-4, 1.1e-3, 0.02, 0.044, 0.05):
            found = [
                replace(
                    SAME, perplexity=20 * math.exp(change), kl_mean=kl, kl_stderr=e, log_change_stderr=e, own_kl=own_kl
                ).refusal
                for e in errors
            ]
            passed = [reason is None for reason in found]
            assert passed == sorted(passed, reverse=True)
            assert not passed[-1] and "too few to tell" in (found[-1] or "")


def test_what_lies_between_is_not_enough_text() -> None:
    unclear = replace(SAME, perplexity=20.14, log_change_stderr=0.002, own_kl=0.0).refusal or ""
    assert unclear.startswith("2000 predictions are too few to tell whether the engine computes the same model")
    assert "+0.70% ± 0.20% (1.0% allowed)" in unclear
    assert "another model" in (replace(SAME, perplexity=20.4, log_change_stderr=0.002, own_kl=0.0).refusal or "")
    assert replace(SAME, perplexity=20.14, log_change_stderr=0.0005, own_kl=0.0).refusal is None
    assert replace(SAME, perplexity=float("nan")).refusal is not None
    assert replace(SAME, kl_mean=float("nan")).refusal is not None
    assert "too few to tell" in (replace(SAME, kl_stderr=math.inf, log_change_stderr=math.inf).refusal or "")


def test_a_full_disk_is_told_before_a_mapped_file_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))

    with pytest.raises(SpaceError, match="are needed in"):
        write_reference(Bigram(OPTIONS), WINDOWS, tmp_path / "reference", "bigram")
    assert list(tmp_path.iterdir()) == []
