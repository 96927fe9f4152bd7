from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slmquant.core.divergence import log_normalize_, next_token_nll, token_divergence_


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
