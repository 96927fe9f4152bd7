"""Rounding what linears read: codes for each token (or one calibrated scale), found once for all who read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slmquant.core.affine import TokenCodes, encode_activations


class LastCodes:
    """The last tensor that was rounded and its codes: one slot for a whole model, so that little is kept alive."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.codes: TokenCodes | None = None


class ActivationQuantizer(nn.Module):
    """Rounds the inputs of linears to integers, per token or with one calibrated scale.

    Linears that receive the very same tensor (q, k and v; gate and up) share one quantizer, and run one after the
    other: the codes of the last tensor are remembered and found once for all of them.

    Args:
        bits: Bits of a code.
        dtype: What the codes are multiplied in.
        static_scale: The calibrated scale of the whole tensor; None for one scale per token.
        last: The slot that the quantizers of a model share.
    """

    def __init__(
        self, bits: int, dtype: torch.dtype, static_scale: float | None = None, last: LastCodes | None = None
    ) -> None:
        super().__init__()
        self.bits = bits
        self.dtype = dtype
        self.static_scale = static_scale
        self._last = last or LastCodes()

    def forward(self, x: Tensor, left_out: Tensor | None = None) -> TokenCodes:
        """Codes in the dtype of the product, and their scale in float32.

        Args:
            x: What the linears receive.
            left_out: Channels that count as 0, because a side branch takes them; the same for all who share `x`.
        """
        if self._last.codes is None or self._last.tensor is not x:
            rest = x if left_out is None else x.index_fill(-1, left_out, 0)
            scale = None if self.static_scale is None else x.new_tensor(self.static_scale, dtype=torch.float32)
            codes, scale = encode_activations(rest, self.bits, scale)
            self._last.tensor, self._last.codes = x, TokenCodes(codes.to(self.dtype), scale)
        return self._last.codes
