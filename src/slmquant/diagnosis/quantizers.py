"""Quantizers of activations that leave chosen channels or tokens in full precision, or undo a scaling of channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slmquant.core.tokens import TokenCodes
from slmquant.model.computing.activations import ActivationQuantizer

Choice = Callable[[Float[Tensor, "*tokens in"]], Bool[Tensor, "*#tokens #in"]]
"""Chooses entries of an input, such as whole channels or whole tokens."""


class KeepingQuantizer(ActivationQuantizer):
    """Rounds everything but chosen entries, which do not affect scales either.

    Args:
        like: The quantizer that it replaces.
        choice: The entries.
    """

    def __init__(self, like: ActivationQuantizer, choice: Choice) -> None:
        super().__init__(like.spec, like.dtype, like.static_scale, like._last, like.clip)
        self._choice = choice

    def _round(self, x: Tensor) -> TokenCodes:
        chosen = self._choice(x)
        codes, scale = super()._round(x.masked_fill(chosen, 0))
        return TokenCodes(torch.where(chosen, x / scale, codes), scale)


class UndoingQuantizer(ActivationQuantizer):
    """Divides channels by factors, rounds, and multiplies the codes by them.

    Args:
        like: The quantizer that it replaces.
        factors: Powers of two, so that nothing else is rounded; `(in,)`.
    """

    def __init__(self, like: ActivationQuantizer, factors: Float[Tensor, " in"]) -> None:
        super().__init__(like.spec, like.dtype, like.static_scale, like._last, like.clip)
        self._factors = factors

    def _round(self, x: Tensor) -> TokenCodes:
        codes, scale = super()._round(x / self._factors)
        return TokenCodes(codes * self._factors, scale)


def channels(chosen: Bool[Tensor, " in"]) -> Choice:
    """These channels, at every token."""
    return lambda _x: chosen


def largest_tokens(share: float) -> Choice:
    """A share of the tokens of every window: those with the largest magnitude in this input, at least one."""

    def choose(x: Float[Tensor, "*batch seq in"]) -> Bool[Tensor, "*batch seq 1"]:
        magnitudes = x.abs().amax(dim=-1, keepdim=True)
        chosen = magnitudes.topk(count_of(share, x.shape[-2]), dim=-2).indices
        return torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(-2, chosen, True)

    return choose


def random_tokens(share: float, seed: int) -> Choice:
    """As many tokens as `largest_tokens`, at random positions, the same in every window and every input."""

    def choose(x: Float[Tensor, "*batch seq in"]) -> Bool[Tensor, "seq 1"]:
        return drawn(x.shape[-2], share, seed)[:, None]

    return choose


def drawn(size: int, share: float, seed: int) -> Bool[Tensor, " size"]:
    """A random choice of a share of `size` entries, at least one."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(size, dtype=torch.bool).scatter_(0, order[: count_of(share, size)], True)


def largest(values: Float[Tensor, " size"], share: float) -> Bool[Tensor, " size"]:
    """The largest of some values: a share of them, at least one."""
    chosen = values.topk(count_of(share, len(values))).indices
    return torch.zeros(len(values), dtype=torch.bool).scatter_(0, chosen, True)


def count_of(share: float, size: int) -> int:
    """How many entries a share is, at least one."""
    return max(1, round(share * size))
