"""How far one distribution over the next token is from another, and the loss of the true next token.

Everything works on blocks of logits of a few hundred tokens: `tokens × vocab` in float32 is large (512
tokens of a 49,152-word vocabulary are 100 MB), so the functions that end in `_` reuse the blocks that they
are given. `compare_` goes over such a block a few rows at a time: each row is read and written about ten times, and
rows that stay in the processor's cache meanwhile take half the time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "TOP_K",
    "Comparison",
    "TokenDivergence",
    "compare_",
    "log_normalize_",
    "next_token_nll",
    "normalizers",
    "token_divergence_",
]

TOP_K = 5
"""How many of the most probable tokens `TokenDivergence.top_share` looks at."""

_CACHED_ELEMENTS = 1 << 19
"""Elements of one distribution's rows that are worked on together: 2 MiB of float32."""


class TokenDivergence(NamedTuple):
    """Per-token comparison of a reference distribution p with another one, q.

    Attributes:
        forward: KL(p‖q), in nats.
        reverse: KL(q‖p), in nats.
        reference_top: The most probable token of p.
        other_top: The most probable token of q.
        top_share: Share of p's `TOP_K` most probable tokens that are among q's; of a smaller vocabulary, all tokens.
        confidence: The probability that p gives to `reference_top`.
    """

    forward: Float[Tensor, " tokens"]
    reverse: Float[Tensor, " tokens"]
    reference_top: Int[Tensor, " tokens"]
    other_top: Int[Tensor, " tokens"]
    top_share: Float[Tensor, " tokens"]
    confidence: Float[Tensor, " tokens"]

    @property
    def agrees(self) -> Bool[Tensor, " tokens"]:
        """Whether both give the same token the highest probability."""
        return self.reference_top == self.other_top


class Comparison(NamedTuple):
    """Per-token loss of a distribution q, and how it compares with a reference p.

    Attributes:
        nll: Negative log-likelihood of the true next token under q, in nats.
        divergence: q seen from p.
        reference_right: Whether p's most probable token is the true one.
        other_right: Whether q's is.
    """

    nll: Float[Tensor, " tokens"]
    divergence: TokenDivergence
    reference_right: Bool[Tensor, " tokens"]
    other_right: Bool[Tensor, " tokens"]


def log_normalize_(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
    """Turn logits into log-probabilities, in place."""
    return logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True))


def normalizers(logits: Float[Tensor, "tokens vocab"]) -> tuple[Float[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """What is subtracted from the logits of each token to give log-probabilities, and its most probable next token."""
    parts = [(part.logsumexp(dim=-1), part.argmax(dim=-1)) for part in logits.split(_cached_rows(logits))]
    normalizer, top = map(torch.cat, zip(*parts, strict=True))
    return normalizer, top


def next_token_nll(
    log_probs: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Negative log-likelihood of each target token, in nats."""
    return log_probs.gather(-1, targets[:, None]).squeeze(-1).neg_()


def token_divergence_(
    reference: Float[Tensor, "tokens vocab"], other: Float[Tensor, "tokens vocab"]
) -> TokenDivergence:
    """KL divergence both ways and agreement, per token; `reference` is overwritten.

    With d = log p − log q, KL(p‖q) is summed as Σ (p·d − p + q) and not as Σ p·d. In exact arithmetic they
    are equal, as Σp = Σq = 1; in float32 the rounding error ε of a log-probability (about 1e-6, no less than
    the divergence at the easiest tokens of an 8-bit model) then enters as (q − p)·ε instead of p·ε.

    Args:
        reference: Log-probabilities of p, from `log_normalize_`.
        other: Log-probabilities of q.

    Returns:
        The divergences. They are NaN or infinite where logits are, or where q gives no probability to what p
        holds possible: the caller counts such tokens, it does not average them.
    """
    k = min(TOP_K, reference.shape[-1])
    highest, first = reference.topk(k)
    second = other.topk(k).indices
    shared = (first[:, :, None] == second[:, None, :]).sum(dim=(1, 2))
    p, q = reference.exp(), other.exp()
    gap = p.sum(dim=-1) - q.sum(dim=-1)
    difference = reference.sub_(other)
    forward = torch.linalg.vecdot(p, difference) - gap
    reverse = gap - torch.linalg.vecdot(q, difference)
    return TokenDivergence(forward, reverse, first[:, 0], second[:, 0], shared / k, highest[:, 0].exp())


def compare_(
    reference: Float[Tensor, "tokens vocab"], other: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> Comparison:
    """Loss of one model's logits and their divergence from another's, per token; both blocks are overwritten.

    Args:
        reference: Logits of p.
        other: Logits of q.
        targets: The tokens that really came next.
    """
    rows = _cached_rows(reference)
    losses, divergences = [], []
    parts = zip(reference.split(rows), other.split(rows), targets.split(rows), strict=True)
    for reference_rows, other_rows, wanted in parts:
        log_normalize_(reference_rows)
        losses.append(next_token_nll(log_normalize_(other_rows), wanted))
        divergences.append(token_divergence_(reference_rows, other_rows))
    divergence = TokenDivergence(*map(torch.cat, zip(*divergences, strict=True)))
    return Comparison(
        torch.cat(losses), divergence, divergence.reference_top == targets, divergence.other_top == targets
    )


def _cached_rows(logits: Float[Tensor, "tokens vocab"]) -> int:
    return max(1, _CACHED_ELEMENTS // logits.shape[-1])
