"""GGUF's super-blocks: the scales of 256 inputs in a few bits each, relative to one float16.

The layout is that of ggml's K-quants (`ggml-common.h` of llama.cpp): a super-block of 256 weights is divided into
groups of 16 or 32; a group's scale is `d · code`, and in types with minima `w = d · code · q − dmin · code'`.
In types with codebooks it is an odd multiple of `d`.
ggml accepts only rows whose length is a multiple of 256. Here the last super-block of a row may be shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from slmquant.core.minifloat import SMALLEST_HALF
from slmquant.core.scales import Packing, Parts, Stored

SUPER_BLOCK = 256
"""Inputs that share `d` (and `dmin`)."""


@dataclass(frozen=True)
class SuperBlocks:
    """Two levels of scales, and of minima if `holds_shift`.

    Attributes:
        groups: Groups in a super-block: 8 of 32 inputs or 16 of 16.
        bits: Bits of a group's scale and of its minimum.
        holds_shift: Whether there are minima. With them codes are unsigned; without, a group's scale may be negative.
    """

    groups: int
    bits: int
    holds_shift: bool
    spans_groups = True
    spans_rows = False

    @property
    def name(self) -> str:
        """`super-blocks of 8 × 6 bits with shift`."""
        return f"super-blocks of {self.groups} × {self.bits} bits" + (" with shift" if self.holds_shift else "")

    @property
    def packings(self) -> Mapping[str, Packing]:
        """Packing of the scales and minima of groups."""
        if self.holds_shift:
            return {"scale": Packing(self.bits), "shift": Packing(self.bits)}
        return {"scale": Packing(self.bits, signed=True)}

    def encode(self, scale: Float[Tensor, "rows groups"], shift: Float[Tensor, "rows groups"]) -> Parts:
        """Nearest codes relative to the largest of each super-block; the code of a scale is never 0.

        A scale of 0 would only express that all weights of its group are equal; any other scale can, by equal codes.
        """
        d, codes = self._level(scale, keep_nonzero=True)
        parts = {"d": d, "scale": codes}
        if self.holds_shift:
            dmin, minima = self._level(shift.clamp(min=0), keep_nonzero=False)
            parts |= {"dmin": dmin, "shift": minima}
        return parts

    def decode(self, parts: Parts) -> Stored:
        """`d · code`, and `dmin · code'`."""
        scale = self._expand(parts["d"], parts["scale"]) * parts["scale"].float()
        shift = None
        if self.holds_shift:
            shift = self._expand(parts["dmin"], parts["shift"]) * parts["shift"].float()
        return Stored(scale, shift)

    def _level(
        self, values: Float[Tensor, "rows groups"], keep_nonzero: bool
    ) -> tuple[Float[Tensor, "rows supers"], Integer[Tensor, "rows groups"]]:
        """A float16 for each super-block, and codes relative to it."""
        rows, count = values.shape
        padded = torch.nn.functional.pad(values.float(), (0, -count % self.groups)).view(rows, -1, self.groups)
        extreme = padded.gather(2, padded.abs().argmax(dim=2, keepdim=True))
        # signed codes reach one step further down than up; the extreme, whatever its sign, is mapped to the lowest
        low, high = (0, 2**self.bits - 1) if self.holds_shift else (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        d = extreme / (high if self.holds_shift else low)
        d = torch.where(d == 0, torch.ones_like(d), d.abs().clamp(SMALLEST_HALF, _LARGEST_HALF).copysign(d)).half()
        codes = (padded / d.float()).round().clamp(low, high)
        if keep_nonzero:
            codes = torch.where(codes == 0, torch.ones_like(codes), codes)
        dtype = torch.uint8 if self.holds_shift else torch.int8
        return d[:, :, 0], codes.flatten(1)[:, :count].to(dtype)

    def _expand(self, d: Float[Tensor, "rows supers"], codes: Tensor) -> Float[Tensor, "rows groups"]:
        return d.float().repeat_interleave(self.groups, dim=1)[:, : codes.shape[1]]


@dataclass(frozen=True)
class OddScales:
    """The scales of ggml's codebook types: `d · unit · (2 · code + 1)` with codes of four bits, so none is 0.

    Scales are positive: signs belong to the codes of weights.

    Attributes:
        groups: Groups in a super-block.
        unit: Factor of all scales, a power of two.
    """

    groups: int
    unit: float
    holds_shift = False
    spans_groups = True
    spans_rows = False
    packings: ClassVar[Mapping[str, Packing]] = {"scale": Packing(4)}

    @property
    def name(self) -> str:
        """`super-blocks of 8 odd multiples of d / 4`."""
        return f"super-blocks of {self.groups} odd multiples of d" + ("" if self.unit == 1 else f" / {1 / self.unit:g}")

    def encode(self, scale: Float[Tensor, "rows groups"], shift: Float[Tensor, "rows groups"]) -> Parts:
        """Codes of the least squared error: the largest scale is held by the code 15, or by a lower one, if better."""
        del shift
        rows, count = scale.shape
        padded = torch.nn.functional.pad(scale.float(), (0, -count % self.groups)).view(rows, -1, self.groups)
        largest = padded.amax(dim=2, keepdim=True)
        best, codes, least = largest, torch.zeros_like(padded), torch.full_like(largest, torch.inf)
        for top in range(_ODD_TOP, _ODD_TOP // 2, -1):
            d = (largest / (self.unit * (2 * top + 1))).clamp(SMALLEST_HALF, _LARGEST_HALF).half().float()
            tried = ((padded / (d * self.unit) - 1) / 2).round().clamp(0, _ODD_TOP)
            error = ((padded - self._scale(d, tried)) * (padded > 0)).square().sum(dim=2, keepdim=True)
            better = error < least
            best, codes, least = (torch.where(better, *pair) for pair in ((d, best), (tried, codes), (error, least)))
        return {"d": best[:, :, 0].half(), "scale": codes.flatten(1)[:, :count].to(torch.uint8)}

    def decode(self, parts: Parts) -> Stored:
        """`d · unit · (2 · code + 1)`."""
        codes = parts["scale"].float()
        d = parts["d"].float().repeat_interleave(self.groups, dim=1)[:, : codes.shape[1]]
        return Stored(self._scale(d, codes))

    def _scale(self, d: Tensor, codes: Tensor) -> Tensor:
        return d * self.unit * (2 * codes + 1)


_ODD_TOP = 15
_LARGEST_HALF = torch.finfo(torch.float16).max
