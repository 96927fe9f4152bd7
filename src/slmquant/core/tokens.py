"""Rounding of activations to codes, with one scale per token, per tensor, or per block of channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core import groups
from slmquant.core.elements import Elements
from slmquant.core.minifloat import E4M3, power_below


class TokenCodes(NamedTuple):
    """Unscaled activations, and the scale of each token (or one for all).

    The numbers are integers, small floats, or small floats times the scale of their block. They are always exact in
    bfloat16, so that a product of them equals what an engine computes from codes.
    """

    codes: Float[Tensor, "*tokens in"]
    scale: Float[Tensor, "*#tokens 1"]


def token_codes(
    x: Float[Tensor, "*tokens in"], elements: Elements, scale: Float[Tensor, ""] | None = None, clip: float = 1.0
) -> TokenCodes:
    """The nearest elements of activations, in the dtype of `x`.

    Args:
        x: Activations.
        elements: Symmetric integers, or a small float.
        scale: A calibrated scale for the whole tensor; None computes one per token from its largest value,
            `clip · max|x| / high`. A token of zeros gets scale 1.
        clip: Share of a token's largest value that maps to the largest element, if scales are computed per token.
    """
    if scale is None:
        largest = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.where(largest == 0, torch.ones_like(largest), largest * clip / elements.high)  # NaN stays NaN
    return TokenCodes(elements.values(elements.nearest(x / scale)).to(x.dtype), scale)


def block_codes(x: Float[Tensor, "*tokens in"], elements: Elements, size: int, *, two_level: bool) -> TokenCodes:
    """The nearest elements of activations, times the scale of their block of channels, in the dtype of `x`.

    Args:
        x: Activations.
        elements: The elements of a microscaling format, or of NVFP4.
        size: Channels in a block; the last may be shorter.
        two_level: If False, a block's scale is a power of two, as in the OCP microscaling formats. If True, it is an
            E4M3 relative to a float32 per token, as in NVFP4; engines calibrate that float32 once for the whole tensor,
            which only changes which small scales underflow.
    """
    low, high = groups.bounds(x.flatten(0, -2).float(), min(size, x.shape[-1]))
    largest = torch.maximum(low.abs(), high.abs()).unflatten(0, x.shape[:-1])
    if two_level:
        token = largest.amax(dim=-1, keepdim=True) / (elements.high * E4M3.largest)
        token = torch.where(token > 0, token, torch.ones_like(token))
        scale = E4M3.round(largest / elements.high / token).clamp_(min=E4M3.smallest)
    else:
        token = torch.ones_like(largest[..., :1])
        scale = power_below(largest) / float(power_below(torch.tensor(float(elements.high))))
        scale = torch.where(largest > 0, scale, torch.ones_like(scale))
        scale = scale.masked_fill(~largest.isfinite(), torch.nan)  # as the formats prescribe; no element is NaN
    scale = scale.repeat_interleave(size, dim=-1)[..., : x.shape[-1]]
    return TokenCodes((elements.values(elements.nearest(x / token / scale)) * scale).to(x.dtype), token)
