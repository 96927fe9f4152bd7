"""Side branches at run time: small linear maps of the unrounded inputs, added to the product of the codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.core.side import LowRank, Side


class LowRankBranch(nn.Module):
    """`up · (down · x)`.

    Args:
        side: The two factors.
        dtype: Dtype to multiply in.
    """

    left_out: Tensor | None = None
    """Input channels that the codes must not see; none here."""
    down: Tensor
    up: Tensor

    def __init__(self, side: LowRank, dtype: torch.dtype) -> None:
        super().__init__()
        down, up = side.factors()
        self.register_buffer("down", down.to(dtype))
        self.register_buffer("up", up.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the dtype of `x`."""
        return F.linear(F.linear(x.to(self.down.dtype), self.down), self.up).to(x.dtype)


class ColumnsBranch(nn.Module):
    """The product of a few input channels with their own weights.

    Args:
        columns: Indices of the input channels.
        weight: Their weights, `(out, columns)`.
        dtype: Dtype to multiply in.
    """

    left_out: Tensor
    weight: Tensor

    def __init__(self, columns: Tensor, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("left_out", columns)
        self.register_buffer("weight", weight.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the dtype of `x`."""
        return F.linear(x.index_select(-1, self.left_out).to(self.weight.dtype), self.weight).to(x.dtype)


Branch = LowRankBranch | ColumnsBranch


def branch_of(side: Side, dtype: torch.dtype) -> Branch:
    """Build the module that computes `side`."""
    if isinstance(side, LowRank):
        return LowRankBranch(side, dtype)
    return ColumnsBranch(side.columns, side.weight, dtype)
