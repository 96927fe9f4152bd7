"""What a quantized weight keeps beside its codes: a low-rank product in 8 or 16 bits, or a few columns in 16.

A side branch is a second, small linear map over the same inputs, whose result is added to that of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

_VALUE_BITS = 16
_INDEX_BITS = 32
_LARGEST = 127


@dataclass(frozen=True)
class LowRank:
    """`W ≈ Ŵ + up · down`: what rounding lost, as far as a matrix of low rank can say it.

    Attributes:
        down: From the inputs to the rank, float16; int8 where there are scales.
        up: From the rank to the outputs, likewise.
        scale: float32; what one step of `up` times one of `down` is worth, for each component. None for float16.
    """

    down: Shaped[Tensor, "rank in"]
    up: Shaped[Tensor, "out rank"]
    scale: Float[Tensor, " rank"] | None = None

    @property
    def stored_bits(self) -> int:
        """8 or 16 bits for each element of both factors, and 32 for each scale."""
        kept = (self.down, self.up) if self.scale is None else (self.down, self.up, self.scale)
        return 8 * sum(part.numel() * part.element_size() for part in kept)

    def in_eight_bits(self) -> LowRank:
        """The nearest product of 8-bit factors, each component with one scale; a component of zeros has scale 0."""
        down, up = self.factors()
        steps = down.abs().amax(dim=1) / _LARGEST, up.abs().amax(dim=0) / _LARGEST
        return LowRank(_codes(down, steps[0][:, None]), _codes(up, steps[1]), steps[0] * steps[1])

    def factors(self) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """`down` and `up` as the float32 numbers that they stand for."""
        up = self.up.float()
        return self.down.float(), up if self.scale is None else up * self.scale

    def rows(self, start: int, stop: int) -> LowRank:
        """The branch of output channels `start` to `stop`; each part of a split weight carries its own `down`."""
        return LowRank(self.down, self.up[start:stop], self.scale)

    def onto(self, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The codes' weight `W` with the product added."""
        down, up = self.factors()
        return W + up.to(W.dtype) @ down.to(W.dtype)


def _codes(values: Tensor, step: Tensor) -> Tensor:
    return (values / torch.where(step > 0, step, 1.0)).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)


@dataclass(frozen=True)
class OutlierColumns:
    """Some input channels keep their weights, and at run time their activations, in 16 bits.

    The codes of these columns are stored as all others and mean nothing: the branch replaces them.

    Attributes:
        columns: Input channels, int64, ascending, at least one.
        weight: float16; the weights of those channels.
    """

    columns: Int[Tensor, " kept"]
    weight: Float[Tensor, "out kept"]

    @property
    def stored_bits(self) -> int:
        """16 bits for each weight and 32 for each channel's number."""
        return _VALUE_BITS * self.weight.numel() + _INDEX_BITS * self.columns.numel()

    def rows(self, start: int, stop: int) -> OutlierColumns:
        """The branch of output channels `start` to `stop`."""
        return OutlierColumns(self.columns, self.weight[start:stop])

    def onto(self, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The codes' weight `W` with these columns in place of its own."""
        return W.index_copy(1, self.columns, self.weight.to(W.dtype))


Side = LowRank | OutlierColumns
