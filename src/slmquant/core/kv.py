"""Rounding of keys and values: scale and minimum for each token and head, or for each channel over some tokens.

Asymmetric integers stand for `x ≈ scale · code + low`, codes in `[0, 2^b − 1]`. The minimum is stored as a separate
number, not as a zero point on the grid: some channels of keys lie far from 0 and vary little, and a range widened to
include 0 would waste most of its codes. Scale and minimum are rounded to float16, as a cache stores them, before codes
are computed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slmquant.core.minifloat import SMALLEST_HALF

__all__ = ["bits_per_value", "round_float8", "round_per_channel", "round_per_token"]

_HALF_BITS = 16
_E4M3 = torch.float8_e4m3fn


def round_per_token(
    x: Float[Tensor, "*heads tokens dim"], bits: int, group_size: int | None = None
) -> Float[Tensor, "*heads tokens dim"]:
    """Round to integers and back, separately for each token and head.

    Args:
        x: Keys or values.
        bits: Bits of a code.
        group_size: Consecutive channels of a head that share a scale; the last group may be shorter. None for the
            whole head.
    """
    if group_size is None or group_size >= x.shape[-1]:
        return _round(x, bits, dim=-1)
    return torch.cat([_round(part, bits, dim=-1) for part in x.split(group_size, dim=-1)], dim=-1)


def round_per_channel(
    x: Float[Tensor, "*heads tokens dim"], bits: int, group_tokens: int
) -> Float[Tensor, "*heads tokens dim"]:
    """Round to integers and back, each channel over groups of consecutive tokens.

    Tokens of an incomplete last group are not rounded: the range of a group is only known with its last token
    (KIVI: Liu et al., ICML 2024, arXiv 2402.02750).

    Args:
        x: Keys, from the first token of the sequence on.
        bits: Bits of a code.
        group_tokens: Tokens in a group.
    """
    complete = x.shape[-2] // group_tokens * group_tokens
    if complete == 0:
        return x
    grouped = x[..., :complete, :].unflatten(-2, (-1, group_tokens))
    rounded = _round(grouped, bits, dim=-2).flatten(-3, -2)
    return torch.cat([rounded, x[..., complete:, :]], dim=-2)


def round_float8(
    x: Float[Tensor, "*heads tokens dim"], group_size: int | None = None
) -> Float[Tensor, "*heads tokens dim"]:
    """Round to FP8 E4M3 and back; the largest value of each token and head (or channel group) maps to 448."""
    if group_size is not None and group_size < x.shape[-1]:
        return torch.cat([round_float8(part) for part in x.split(group_size, dim=-1)], dim=-1)
    values = x.float()
    limit = torch.finfo(_E4M3).max
    scale = _stored_scale(values.abs().amax(dim=-1, keepdim=True) / limit)
    return (scale * (values / scale).clamp(-limit, limit).to(_E4M3).float()).to(x.dtype)


def bits_per_value(bits: int, shared_by: float, parameters: int = 2) -> float:
    """Stored bits of one value: its code, plus its share of `parameters` float16 numbers per `shared_by` values."""
    return bits + parameters * _HALF_BITS / shared_by


def _round(x: Tensor, bits: int, dim: int) -> Tensor:
    values = x.float()
    low, high = torch.aminmax(values, dim=dim, keepdim=True)
    low = _half(low)
    top = 2**bits - 1
    scale = _stored_scale((high - low) / top)
    return ((values - low).div_(scale).round_().clamp_(0, top).mul_(scale).add_(low)).to(x.dtype)


def _stored_scale(scale: Tensor) -> Tensor:
    """Round to float16, but never to 0; if all values are equal, any scale will do."""
    return _half(scale.clamp(min=SMALLEST_HALF))


def _half(x: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return x.clamp(-limit, limit).half().float()
