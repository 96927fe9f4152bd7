"""What a quantized weight keeps in 16 bits beside its codes: a low-rank product, or a few input columns.

A side branch is a second, small linear map over the same inputs, whose result is added to that of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

_VALUE_BITS = 16
_INDEX_BITS = 32


@dataclass(frozen=True)
class LowRank:
    """`W ≈ Ŵ + up · down`: what rounding lost, as far as a matrix of low rank can say it.

    Attributes:
        down: float16; from the inputs to the rank.
        up: float16; from the rank to the outputs.
    """

    down: Float[Tensor, "rank in"]
    up: Float[Tensor, "out rank"]

    @property
    def stored_bits(self) -> int:
        """16 bits for each element of both factors: `16 · rank · (out + in)`."""
        return _VALUE_BITS * (self.down.numel() + self.up.numel())

    def rows(self, start: int, stop: int) -> LowRank:
        """The branch of output channels `start` to `stop`; each part of a split weight carries its own `down`."""
        return LowRank(self.down, self.up[start:stop])

    def onto(self, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The codes' weight `W` with the product added."""
        return W + self.up.to(W.dtype) @ self.down.to(W.dtype)


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
