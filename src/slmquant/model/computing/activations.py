"""Rounding of the inputs of linears; linears that read the same tensor share its codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slmquant.core.elements import TABLES, Elements, Integers
from slmquant.core.tokens import TokenCodes, block_codes, token_codes
from slmquant.schemes import ActivationSpec


class LastCodes:
    """Cache of the last rounded tensor and its codes: a single slot per model, to keep little memory alive."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.left_out: Tensor | None = None
        self.codes: TokenCodes | None = None


class ActivationQuantizer(nn.Module):
    """Rounds the inputs of linears, per token, with one calibrated scale, or in blocks of channels.

    Linears that receive the same tensor (q, k and v; gate and up) share one quantizer and run one after the other, so
    the codes of the last tensor are cached and computed once for all of them.

    Args:
        spec: The number format to round to.
        dtype: Dtype that the codes are multiplied in.
        static_scale: The calibrated scale of the whole tensor; None computes scales at run time.
        last: The cache that the quantizers of a model share.
        clip: Share of a token's largest value that maps to the largest number, if scales are computed per token.
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
            left_out: Channels that get the code of 0 and do not affect scales, because a side branch reads them.
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
    """Scale of a whole activation tensor: `clip` times its largest calibrated magnitude maps to the largest number."""
    return clip * largest / activation_elements(spec).high if largest > 0 else 1.0
