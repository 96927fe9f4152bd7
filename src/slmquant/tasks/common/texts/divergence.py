"""The divergence suite: how a model's predictions differ from the full-precision model's, token by token.

A quantized model can keep its accuracy and still behave differently: as many answers turn right as turn wrong ("flips":
Dutta et al., "Accuracy is Not All You Need", NeurIPS 2024, arXiv 2407.09141). Divergence and flips measure that. Both
are also reported by how sure the reference was of its own prediction: if it was undecided between words, a small
perturbation changes the first of them and little is lost; if it was sure, a change is damage.

*Deviations*: the paper counts flips of answers to questions; here flips are of the next token of a text.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slmquant.core.divergence import TOP_K, Comparison
from slmquant.store.record import Metric
from slmquant.tasks.common.texts.token_means import Labels

__all__ = ["SURENESS", "TokenFigures", "divergence_metrics", "figures_of", "noise_floor_metrics", "window_figures"]

SURENESS = {"unsure": (0.0, 0.3), "leaning": (0.3, 0.7), "sure": (0.7, 2.0)}
"""Suffix → the probability of the reference's most probable token, from (inclusive) and to (exclusive)."""

TOP_AGREEMENT = f"top{TOP_K}_agreement"


class TokenFigures(NamedTuple):
    """Figures of each prediction of a text; yes-or-no figures are ones and zeros.

    Attributes:
        forward: KL(reference‖model), in nats.
        reverse: KL(model‖reference), in nats.
        top1: Whether both have the same most probable token.
        top_share: Share of the reference's most probable tokens that are among the model's.
        to_wrong: Whether the reference's most probable token is the true one and the model's is not.
        to_right: Whether the model's most probable token is the true one and the reference's is not.
        confidence: The reference's probability of its most probable token.
    """

    forward: Float[Tensor, "windows predictions"]
    reverse: Float[Tensor, "windows predictions"]
    top1: Float[Tensor, "windows predictions"]
    top_share: Float[Tensor, "windows predictions"]
    to_wrong: Float[Tensor, "windows predictions"]
    to_right: Float[Tensor, "windows predictions"]
    confidence: Float[Tensor, "windows predictions"]


def figures_of(compared: Comparison) -> Float[Tensor, "figures tokens"]:
    """The `TokenFigures` of some tokens, in their order."""
    divergence = compared.divergence
    return torch.stack(
        [
            divergence.forward,
            divergence.reverse,
            divergence.agrees.float(),
            divergence.top_share,
            (compared.reference_right & ~compared.other_right).float(),
            (compared.other_right & ~compared.reference_right).float(),
            divergence.confidence,
        ]
    )


def divergence_metrics(figures: TokenFigures, labels: Labels) -> list[Metric]:
    """All metrics of the suite, except for classes of tokens that are empty."""
    finite = _finite(figures)
    n = int(finite.sum())
    metrics = []
    if n:
        forward = _only(figures.forward, finite)
        metrics += [
            *_means(figures, finite, labels, ""),
            labels.quantile("kl_median", forward, 0.5, "nats", False),
            labels.quantile("kl_p99", forward, 0.99, "nats", False),
            labels.mean("kl_reverse_mean", _only(figures.reverse, finite), "nats", False),
            labels.mean(TOP_AGREEMENT, _only(figures.top_share, finite), "ratio", True),
        ]
        for suffix, (low, high) in SURENESS.items():
            part = finite & (figures.confidence >= low) & (figures.confidence < high)
            if part.any():
                metrics += _means(figures, part, labels, f"_{suffix}")
    if n < finite.numel():
        metrics.append(labels.metric("kl_nonfinite", finite.numel() - n, "count", False, finite.numel()))
    return metrics


def window_figures(figures: TokenFigures) -> dict[str, Float[Tensor, "windows predictions"]]:
    """Metric → its value at each prediction, to be averaged window by window; NaN if not finite."""
    finite = _finite(figures)
    values = {
        "kl_mean": figures.forward,
        "kl_reverse_mean": figures.reverse,
        "top1_agreement": figures.top1,
        TOP_AGREEMENT: figures.top_share,
        "flips_to_wrong": figures.to_wrong,
        "flips_to_right": figures.to_right,
    }
    return {name: _only(value, finite) for name, value in values.items()}


def noise_floor_metrics(figures: TokenFigures, labels: Labels) -> list[Metric]:
    """The suite's metrics of the full-precision model against itself rounded to bfloat16; see `noise_floor`."""
    finite = _finite(figures)
    if not finite.any():
        return []
    return [
        labels.mean("kl_noise_floor", _only(figures.forward, finite), "nats", None),
        labels.mean("top1_agreement_noise_floor", _only(figures.top1, finite), "ratio", None),
        labels.mean(f"{TOP_AGREEMENT}_noise_floor", _only(figures.top_share, finite), "ratio", None),
    ]


def _means(
    figures: TokenFigures, part: Bool[Tensor, "windows predictions"], labels: Labels, suffix: str
) -> list[Metric]:
    """The four means that are also reported by sureness, over a part of the tokens.

    Flips to right count as neither better nor worse: they gain accuracy, but they deviate from the reference.
    """
    return [
        labels.mean(f"kl_mean{suffix}", _only(figures.forward, part), "nats", False),
        labels.mean(f"top1_agreement{suffix}", _only(figures.top1, part), "ratio", True),
        labels.mean(f"flips_to_wrong{suffix}", _only(figures.to_wrong, part), "ratio", False),
        labels.mean(f"flips_to_right{suffix}", _only(figures.to_right, part), "ratio", None),
    ]


def _finite(figures: TokenFigures) -> Bool[Tensor, "windows predictions"]:
    return torch.isfinite(figures.forward) & torch.isfinite(figures.reverse)


def _only(
    values: Float[Tensor, "windows predictions"], part: Bool[Tensor, "windows predictions"]
) -> Float[Tensor, "windows predictions"]:
    return values.masked_fill(~part, torch.nan)
