"""Divergence between two distributions over the next token, and the loss of the true next token.

All functions work on blocks of logits of a few hundred tokens: `tokens × vocab` in float32 is large (512 tokens of a
49,152-word vocabulary are 100 MB), so functions whose names end in `_` overwrite the blocks they are given. `compare_`
processes a block a few rows at a time: each row is read and written about ten times, which takes half the time if the
rows stay in the processor's cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

__all__ = [
    "TOP_K",
    "Comparison",
    "TokenDivergence",
    "compare_",
    "divergence_loss",
    "forward_divergence_",
    "log_normalize_",
    "next_token_nll",
    "normalizers",
    "token_divergence_",
]

TOP_K = 5
"""Number of most probable tokens that `TokenDivergence.top_share` compares."""

_PART = 128
"""Length of the parts of a row in which `_highest` looks first."""
_CACHED_ELEMENTS = 1 << 19
"""Elements of one distribution that are processed together: 2 MiB of float32."""


class TokenDivergence(NamedTuple):
    """Per-token comparison of a reference distribution p with another distribution q.

    Attributes:
        forward: KL(p‖q), in nats.
        reverse: KL(q‖p), in nats.
        reference_top: The most probable token of p.
        other_top: The most probable token of q.
        top_share: Share of p's `TOP_K` most probable tokens that are among q's (all tokens of a smaller vocabulary).
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
    """Per-token loss of a distribution q, and its comparison with a reference p.

    Attributes:
        nll: Negative log-likelihood of the true next token under q, in nats.
        divergence: Comparison of q with p.
        reference_right: Whether p's most probable token is the true one.
        other_right: Whether q's most probable token is the true one.
    """

    nll: Float[Tensor, " tokens"]
    divergence: TokenDivergence
    reference_right: Bool[Tensor, " tokens"]
    other_right: Bool[Tensor, " tokens"]


def divergence_loss(
    reference: Float[Tensor, "tokens vocab"], logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, ""]:
    """`Σ KL(p‖q)` over tokens, in nats, differentiable in the logits of q.

    Args:
        reference: Logits of p.
        logits: Logits of q.
    """
    return F.kl_div(logits.log_softmax(-1), reference.log_softmax(-1), reduction="sum", log_target=True)


def log_normalize_(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
    """Turn logits into log-probabilities, in place."""
    return logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True))


def normalizers(logits: Float[Tensor, "tokens vocab"]) -> tuple[Float[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """Per token: the log-sum-exp of its logits (log-probability = logit − this), and the most probable next token."""
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
        The divergences. They are NaN or infinite if logits are, or if q gives no probability to a token that is
        possible under p: callers must count such tokens, not average them.
    """
    k = min(TOP_K, reference.shape[-1])
    highest, first = _highest(reference, k)
    _, second = _highest(other, k)
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


def forward_divergence_(
    reference: Float[Tensor, "tokens vocab"], other: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, " tokens"]:
    """KL(p‖q) alone, per token, in nats, for when the rest of `compare_` is not needed. Both blocks are overwritten.

    Args:
        reference: Logits of p.
        other: Logits of q.
    """
    rows, found = _cached_rows(reference), []
    for known, rest in zip(reference.split(rows), other.split(rows), strict=True):
        log_normalize_(known)
        torch.sub(known, log_normalize_(rest), out=rest)
        found.append(rest.mul_(known.exp_()).sum(dim=1))
    return torch.cat(found)


def _highest(block: Float[Tensor, "tokens vocab"], k: int) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """The `k` highest values of each row and their indices, as `topk` finds them, in a quarter of its time.

    They lie in the `k` parts of a row whose own highest values are highest, or in the rest that fills no part.
    """
    parts = block.shape[1] // _PART
    if parts <= k:
        highest = block.topk(k)
        return highest.values, highest.indices
    whole = block[:, : parts * _PART].unflatten(1, (parts, _PART))
    best = whole.amax(dim=-1).topk(k).indices[:, :, None]
    values = whole.gather(1, best.expand(-1, -1, _PART)).flatten(1)
    indices = (best * _PART + torch.arange(_PART, device=block.device)).flatten(1)
    rest = torch.arange(parts * _PART, block.shape[1], device=block.device).expand(len(block), -1)
    values, indices = torch.cat((values, block[:, parts * _PART :]), dim=1), torch.cat((indices, rest), dim=1)
    highest = values.topk(k)
    return highest.values, indices.gather(1, highest.indices)


def _cached_rows(logits: Float[Tensor, "tokens vocab"]) -> int:
    return max(1, _CACHED_ELEMENTS // logits.shape[-1])
