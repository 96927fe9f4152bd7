"""How far one distribution over the next token is from another, and the loss of the true next token.

Everything works on blocks of logits of a few hundred tokens: `tokens × vocab` in float32 is large (512
tokens of a 49,152-word vocabulary are 100 MB), so the functions that end in `_` reuse the blocks that they
are given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["TokenDivergence", "log_normalize_", "next_token_nll", "token_divergence_"]


class TokenDivergence(NamedTuple):
    """Per-token comparison of a reference distribution p with another one, q.

    Attributes:
        forward: KL(p‖q), in nats.
        reverse: KL(q‖p), in nats.
        agrees: Whether both give the same token the highest probability.
    """

    forward: Float[Tensor, " tokens"]
    reverse: Float[Tensor, " tokens"]
    agrees: Bool[Tensor, " tokens"]


def log_normalize_(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
    """Turn logits into log-probabilities, in place."""
    return logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True))


def next_token_nll(
    log_probs: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Negative log-likelihood of each target token, in nats."""
    return log_probs.gather(-1, targets[:, None]).squeeze(-1).neg_()


def token_divergence_(
    reference: Float[Tensor, "tokens vocab"], other: Float[Tensor, "tokens vocab"]
) -> TokenDivergence:
    """KL divergence both ways and agreement, per token; both blocks are overwritten.

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
    agrees = reference.argmax(dim=-1) == other.argmax(dim=-1)
    p, q = reference.exp(), other.exp()
    gap = p.sum(dim=-1) - q.sum(dim=-1)
    difference = reference.sub_(other)
    forward = torch.linalg.vecdot(p, difference) - gap
    reverse = gap - torch.linalg.vecdot(q, difference)
    return TokenDivergence(forward, reverse, agrees)
