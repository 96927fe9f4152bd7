"""Rounding what linears read: codes for each token (or one calibrated scale), found once for all who read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slmquant.core.elements import TABLES, Elements, Integers
from slmquant.core.tokens import TokenCodes, block_codes, token_codes
from slmquant.schemes import ActivationSpec


class LastCodes:
    """The last tensor that was rounded and its codes: one slot for a whole model, so that little is kept alive."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.left_out: Tensor | None = None
        self.codes: TokenCodes | None = None


class ActivationQuantizer(nn.Module):
    """Rounds the inputs of linears, per token, with one calibrated scale, or in blocks of channels.

    Linears that receive the very same tensor (q, k and v; gate and up) share one quantizer, and run one after the
    other: the codes of the last tensor are remembered and found once for all of them.

    Args:
        spec: What to round to.
        dtype: What the codes are multiplied in.
        static_scale: The calibrated scale of the whole tensor; None finds scales while running.
        last: The slot that the quantizers of a model share.
        clip: Share of a token's largest value that the last number stands for, where scales of tokens are found.
    """

    def __init__(
        self,
        spec: ActivationSpec,
        dtype: torch.dtype,
        static_scale: float | None = None,
        last: LastCodes | None = None,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.static_scale = static_scale
        self.clip = clip
        self._elements = activation_elements(spec)
        self._last = last or LastCodes()

    def forward(self, x: Tensor, left_out: Tensor | None = None) -> TokenCodes:
        """Codes in the dtype of the product, and their scale in float32.

        Args:
            x: `(..., in)`.
            left_out: Channels that get the code of 0 and set no scale, because a side branch reads them.
        """
        last = self._last
        if last.codes is None or last.tensor is not x or last.left_out is not left_out:
            codes, scale = self._round(x if left_out is None else x.index_fill(-1, left_out, 0))
            last.tensor, last.left_out, last.codes = x, left_out, TokenCodes(codes.to(self.dtype), scale)
        return last.codes

    def _round(self, x: Tensor) -> TokenCodes:
        if (block := self.spec.block_size) is not None:
            return block_codes(x, self._elements, block, two_level=self.spec.format == "NVFP4")
        scale = None if self.static_scale is None else x.new_tensor(self.static_scale, dtype=torch.float32)
        return token_codes(x, self._elements, scale, self.clip)


def activation_elements(spec: ActivationSpec) -> Elements:
    """The numbers that activations are rounded to."""
    if spec.element is None:
        return Integers.of(spec.bits, symmetric=True)
    return TABLES[spec.element]


def static_scale(spec: ActivationSpec, largest: float, clip: float = 1.0) -> float:
    """Scale of a whole activation tensor: `clip` times its largest magnitude over the calibration tokens is the end."""
    return clip * largest / activation_elements(spec).high if largest > 0 else 1.0
