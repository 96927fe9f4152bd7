"""Clips activations to a share of each token's range, given or searched on calibration text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.methods.common.work import Work
from slmquant.model.computing.activations import ActivationQuantizer, LastCodes
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.model.rewriting.online_rotations import ClippedActivations
from slmquant.progress import track
from slmquant.schemes.scheme import ActivationSpec

PUBLISHED_RATIO = 0.9
"""QuaRot's ratio for activations of four bits (arXiv 2404.00456, section 5)."""
MOST_CLIPPED_BITS = 4
"""With more bits clipping costs more than the finer steps gain: on stories15m at W8A8 QuaRot's divergence is 0.0009
nats without and 0.0047 with the ratio, at W4A8 0.068 and 0.074, at W4A4 0.270 and 0.233 (64 windows of other
stories)."""

RATIOS: tuple[float, ...] = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares that a search tries; if several are equally good, the first wins."""

_WINDOWS = 8
"""Largest number of calibration windows used by a search."""

Ratio = float | Literal["published", "searched"]


def ratio_for(spec: ActivationSpec | None, ratio: float | Literal["published"]) -> float:
    """The share of its range to which a token is clipped; 1 if activations are not clipped."""
    if spec is None or spec.format != "INT":
        return 1.0
    if ratio == "published":
        return PUBLISHED_RATIO if spec.bits <= MOST_CLIPPED_BITS else 1.0
    return ratio


def clip_activations_(work: Work, ratio: Ratio) -> None:
    """Clip the inputs of linears to a share of their range, and add a note to the row.

    Does nothing if the scheme leaves activations alone, or rounds them to floats or in blocks, which no paper clips,
    or if the share is 1.

    Args:
        work: The work, with a transformed model whose linears are not quantized yet.
        ratio: The share, in (0, 1]; `published` is the authors' for four bits, `searched` searches it on calibration
            text.
    """
    spec = work.scheme.activations
    if spec is None or spec.format != "INT":
        return
    if ratio == "searched":
        ratio, tried = searched_ratio(work, spec)
        losses = ", ".join(f"{value:.4g} at {share:g}" for share, value in tried.items())
        work.notes.append(f"activations are clipped to {ratio:g} of their range; divergence on calibration: {losses}")
    elif (ratio := ratio_for(spec, ratio)) != 1:
        work.notes.append(f"activations are clipped to {ratio:g} of their range")
    if ratio != 1:
        work.online.append(ClippedActivations(ratio))


@torch.no_grad()
def searched_ratio(work: Work, spec: ActivationSpec) -> tuple[float, dict[float, float]]:
    """Search the share of clipped activations that changes the model's predictions least, with weights unchanged.

    Each token has its own scale, even if the scheme has calibrated scales.

    Returns:
        The share, and for each share tried the mean divergence KL(exact ‖ rounded) in nats.
    """
    windows = work.calibration.windows[:_WINDOWS]
    tried = dict.fromkeys(RATIOS, 0.0)
    for window in track(windows.split(1), "search the clipping of activations", work.progress, len(windows)):
        exact = log_probabilities(work, window)
        for ratio in RATIOS:
            with _rounded_inputs(work, ActivationQuantizer(spec, torch.float32, None, LastCodes(), ratio)):
                rounded = log_probabilities(work, window)
            divergence = F.kl_div(rounded, exact, log_target=True, reduction="none").sum(dim=-1).mean()
            tried[ratio] += float(divergence) / len(windows)
    return min(tried, key=tried.__getitem__), tried


def log_probabilities(work: Work, window: Int[Tensor, "1 seq"]) -> Float[Tensor, "seq vocab"]:
    """Predictions of the current model for a window, with linears in the dtype of the quantized model.

    A model in float64, as tests of exactness have it, computes in float64 throughout.
    """
    is_exact = work.model.dtype == torch.float64
    with computing_in_float64() if is_exact else multiplying_in(work.model.base_model, work.dtype):
        logits: Tensor = work.model(input_ids=window.to(work.model.device), use_cache=False).logits[0]
    return logits.float().log_softmax(dim=-1)


@contextmanager
def _rounded_inputs(work: Work, quantizer: ActivationQuantizer) -> Iterator[None]:
    """Within this context linears read rounded inputs; rotations come first, as their hooks are older."""
    hook = _rounding_hook(quantizer)
    hooks = [work.model.get_submodule(name).register_forward_pre_hook(hook) for name in work.relations.linears]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _rounding_hook(quantizer: ActivationQuantizer) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def rounded(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        codes, scale = quantizer(args[0])
        return codes * scale, *args[1:]

    return rounded
