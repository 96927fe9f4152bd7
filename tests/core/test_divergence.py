from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slmquant.core import divergence
from slmquant.core.divergence import (
    _highest,
    compare_,
    forward_divergence_,
    log_normalize_,
    next_token_nll,
    normalizers,
    token_divergence_,
)


def _logits(seed: int, tokens: int = 7, vocab: int = 50) -> Tensor:
    return 4 * torch.randn(tokens, vocab, generator=torch.Generator().manual_seed(seed))


def _oracle(reference: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both divergences by their definition, in float64, one token and one word at a time."""
    forward, reverse = torch.zeros(len(reference)).double(), torch.zeros(len(reference)).double()
    for token, (a, b) in enumerate(zip(reference.double(), other.double(), strict=True)):
        p, q = a.exp() / a.exp().sum(), b.exp() / b.exp().sum()
        for pv, qv in zip(p, q, strict=True):
            forward[token] += pv * (pv / qv).log()
            reverse[token] += qv * (qv / pv).log()
    return forward, reverse


@pytest.mark.parametrize("noise", [3.0, 0.1, 1e-3])
def test_divergence_equals_its_definition(noise: float) -> None:
    reference = _logits(0)
    other = reference + noise * _logits(1)
    forward, reverse = _oracle(reference, other)
    found = token_divergence_(log_normalize_(reference.clone()), log_normalize_(other.clone()))
    torch.testing.assert_close(found.forward.double(), forward, rtol=1e-4, atol=3e-7)
    torch.testing.assert_close(found.reverse.double(), reverse, rtol=1e-4, atol=3e-7)


def test_the_forward_divergence_alone_is_the_same() -> None:
    reference, other = _logits(0), _logits(1)
    forward, _ = _oracle(reference, other)

    torch.testing.assert_close(forward_divergence_(reference, other).double(), forward, rtol=1e-4, atol=3e-7)


def test_small_divergences_survive_a_large_vocabulary_in_float32() -> None:
    reference = _logits(2, tokens=4, vocab=50_000)
    other = reference + 3e-4 * _logits(3, tokens=4, vocab=50_000)
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    exact = (p.exp() * (p - q)).sum(-1)
    found = token_divergence_(log_normalize_(reference.clone()), log_normalize_(other.clone())).forward
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-7)


def test_a_distribution_does_not_diverge_from_itself_nor_from_a_shifted_copy() -> None:
    logits = _logits(4)
    same = token_divergence_(log_normalize_(logits.clone()), log_normalize_(logits.clone()))
    assert same.forward.eq(0).all() and same.reverse.eq(0).all() and same.agrees.all()
    shifted = token_divergence_(log_normalize_(logits.clone()), log_normalize_(logits + 5))
    assert shifted.forward.abs().max() < 1e-6 and shifted.agrees.all()


def test_swapping_the_distributions_swaps_the_directions() -> None:
    a, b = _logits(5), _logits(6)
    one = token_divergence_(log_normalize_(a.clone()), log_normalize_(b.clone()))
    two = token_divergence_(log_normalize_(b.clone()), log_normalize_(a.clone()))
    torch.testing.assert_close(one.forward, two.reverse)
    torch.testing.assert_close(one.reverse, two.forward)
    assert torch.equal(one.agrees, two.agrees)


def test_agreement_compares_the_most_probable_token() -> None:
    a = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    b = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.5, 0.0]])
    assert token_divergence_(log_normalize_(a), log_normalize_(b)).agrees.tolist() == [False, True]


def test_nan_logits_stay_visible_in_their_own_token_only() -> None:
    a, b = _logits(7), _logits(8)
    b[2, 3] = float("nan")
    found = token_divergence_(log_normalize_(a), log_normalize_(b))
    assert torch.isfinite(found.forward).tolist() == [True, True, False, True, True, True, True]


def test_nll_is_cross_entropy() -> None:
    logits = _logits(9)
    targets = torch.tensor([0, 49, 3, 3, 7, 11, 20])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(next_token_nll(log_normalize_(logits.clone()), targets), expected)


def test_shares_of_the_top_tokens_and_flips_equal_their_definitions_word_by_word() -> None:
    a, b = _logits(10, tokens=40), _logits(10, tokens=40) + 0.5 * _logits(11, tokens=40)
    targets = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(12))
    targets[:10], targets[10:20] = a[:10].argmax(-1), b[10:20].argmax(-1)
    found = compare_(a.clone(), b.clone(), targets)
    for token, (x, y) in enumerate(zip(a.double(), b.double(), strict=True)):
        first = sorted(range(50), key=lambda word: -float(x[word]))
        second = sorted(range(50), key=lambda word: -float(y[word]))
        assert found.divergence.top_share[token].item() == pytest.approx(len(set(first[:5]) & set(second[:5])) / 5)
        assert found.divergence.agrees[token] == (first[0] == second[0])
        assert found.reference_right[token] == (first[0] == targets[token])
        assert found.other_right[token] == (second[0] == targets[token])
        assert found.divergence.confidence[token].item() == pytest.approx(x.softmax(-1).max().item(), rel=1e-5)


def test_a_vocabulary_smaller_than_k_is_shared_whole() -> None:
    found = compare_(_logits(13, vocab=3), _logits(14, vocab=3), torch.zeros(7, dtype=torch.long))
    assert found.divergence.top_share.eq(1).all()


@pytest.mark.parametrize("elements", [1, 150, 1 << 19])
def test_how_many_rows_are_worked_on_together_changes_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, targets = _logits(15), _logits(16), torch.tensor([0, 49, 3, 3, 7, 11, 20])
    monkeypatch.setattr(divergence, "_CACHED_ELEMENTS", elements)
    found = compare_(a.clone(), b.clone(), targets)
    whole = token_divergence_(log_normalize_(a.clone()), log_normalize_(b.clone()))
    for part, expected in zip(found.divergence, whole, strict=True):
        torch.testing.assert_close(part, expected)
    torch.testing.assert_close(found.nll, next_token_nll(log_normalize_(b.clone()), targets))


def test_top_tokens_do_not_depend_on_which_model_is_the_reference() -> None:
    a, b, targets = _logits(17), _logits(18), torch.zeros(7, dtype=torch.long)
    one, two = compare_(a.clone(), b.clone(), targets), compare_(b.clone(), a.clone(), targets)
    assert torch.equal(one.divergence.top_share, two.divergence.top_share)
    assert torch.equal(one.reference_right, two.other_right)


def test_normalizers_are_the_log_sum_and_the_top_of_every_row() -> None:
    logits = torch.randn(25, 40_000, generator=torch.Generator().manual_seed(3)) * 4  # more than one block of rows
    normalizer, top = normalizers(logits)
    assert torch.allclose(normalizer.double(), logits.double().exp().sum(dim=-1).log(), atol=1e-5)
    assert torch.equal(top, logits.argmax(dim=-1))


@pytest.mark.parametrize("vocab", [5, 600, 128 * 5, 128 * 6, 128 * 6 + 1, 1000])
def test_the_highest_values_are_those_of_topk(vocab: int) -> None:
    block = torch.randn(7, vocab, generator=torch.Generator().manual_seed(vocab))
    block[0, -5:] = 9.0  # ties, in the rest that fills no part
    values, indices = _highest(block, 5)
    expected = block.topk(5)

    assert torch.equal(values, expected.values)
    assert torch.equal(block.gather(1, indices), values)
    assert all(len(set(row.tolist())) == 5 for row in indices)
    assert torch.equal(indices[1:], expected.indices[1:])
