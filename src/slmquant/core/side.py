"""Side branches of a quantized weight: a low-rank product in 8 or 16 bits, or a few columns in 16 bits.

A side branch is a second, small linear map of the same inputs; its output is added to the output of the codes.
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
    """`W ≈ Ŵ + up · down`: a low-rank approximation of the rounding error.

    Attributes:
        down: Map from the inputs to the rank, float16; int8 if there are scales.
        up: Map from the rank to the outputs, likewise.
        scale: float32; for each component, the step of `up` times the step of `down`. None for float16 factors.
    """

    down: Shaped[Tensor, "rank in"]
    up: Shaped[Tensor, "out rank"]
    scale: Float[Tensor, " rank"] | None = None

    @property
    def stored_bits(self) -> int:
        """8 or 16 bits per element of both factors, and 32 per scale."""
        kept = (self.down, self.up) if self.scale is None else (self.down, self.up, self.scale)
        return 8 * sum(part.numel() * part.element_size() for part in kept)

    def in_eight_bits(self) -> LowRank:
        """The nearest product of 8-bit factors, each component with one scale; a component of zeros has scale 0."""
        down, up = self.factors()
        steps = down.abs().amax(dim=1) / _LARGEST, up.abs().amax(dim=0) / _LARGEST
        return LowRank(_codes(down, steps[0][:, None]), _codes(up, steps[1]), steps[0] * steps[1])

    def factors(self) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """`down` and `up` in float32, dequantized if they are codes."""
        up = self.up.float()
        return self.down.float(), up if self.scale is None else up * self.scale

    def rows(self, start: int, stop: int) -> LowRank:
        """The branch of output channels `start` to `stop`; `down` is repeated in every part of a split weight."""
        return LowRank(self.down, self.up[start:stop], self.scale)

    def onto(self, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """`W`, the weight of the codes, with the product added."""
        down, up = self.factors()
        return W + up.to(W.dtype) @ down.to(W.dtype)


def _codes(values: Tensor, step: Tensor) -> Tensor:
    return (values / torch.where(step > 0, step, 1.0)).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)


@dataclass(frozen=True)
class OutlierColumns:
    """Some input channels whose weights, and at run time whose activations, stay in 16 bits.

    The codes of these columns are stored like all others but ignored: the branch replaces them.

    Attributes:
        columns: Input channels, int64, ascending, at least one.
        weight: The weights of those channels, float16.
    """

    columns: Int[Tensor, " kept"]
    weight: Float[Tensor, "out kept"]

    @property
    def stored_bits(self) -> int:
        """16 bits per weight and 32 per channel index."""
        return _VALUE_BITS * self.weight.numel() + _INDEX_BITS * self.columns.numel()

    def rows(self, start: int, stop: int) -> OutlierColumns:
        """The branch of output channels `start` to `stop`."""
        return OutlierColumns(self.columns, self.weight[start:stop])

    def onto(self, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """`W`, the weight of the codes, with these columns replaced."""
        return W.index_copy(1, self.columns, self.weight.to(W.dtype))


Side = LowRank | OutlierColumns
