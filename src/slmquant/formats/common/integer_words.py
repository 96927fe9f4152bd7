"""Integer weights as GPTQ and AWQ checkpoints store them: unsigned codes and zero points, float16 scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float16, UInt8
from torch import Tensor

from slmquant.core.affine import QuantizedTensor
from slmquant.core.elements import Integers
from slmquant.core.scales import Plain
from slmquant.formats.common.checkpoint_folder import no_side, ragged
from slmquant.formats.common.entries import describe
from slmquant.schemes import Scheme

_PRECISION = 2**-11
"""Largest relative error of rounding to a normal float16."""


class Counted(NamedTuple):
    """`w = scale · (code − zero)`, with codes and zeros in `[0, 2^bits − 1]`."""

    codes: UInt8[Tensor, "out in"]
    zeros: UInt8[Tensor, "out groups"]
    scales: Float16[Tensor, "out groups"]


class WordLayout:
    """Shared by the GPTQ and AWQ layouts: integer weights in 32-bit words, and 16-bit activations."""

    def refusal(self, scheme: Scheme) -> str | None:
        """Rounded activations are refused: only weights are packed."""
        if scheme.activations is not None:
            return f"{scheme} rounds activations, which this layout cannot express; use compressed_tensors, or A16"
        return None

    def stored(self, weight: QuantizedTensor, scheme: Scheme) -> str:
        """Description of the weight's numbers."""
        del scheme
        return describe(weight)

    def packs(self, parts: Mapping[str, Tensor]) -> bool:
        """Whether the tensors are a packed weight: codes and scales; one without the other counts, but is damaged."""
        return "qweight" in parts or "scales" in parts


def misfit(weight: QuantizedTensor, bits: Collection[int]) -> str | None:
    """Why a weight is not integers of one of `bits` in whole groups with plain scales; None if it is."""
    elements = weight.grid.elements
    if not isinstance(elements, Integers):
        return f"its numbers are {elements.name}, and only integers can be stored"
    if weight.bits not in bits:
        return f"its codes have {weight.bits} bits, expected {', '.join(map(str, sorted(bits)))}"
    return no_side(weight) or not_plain(weight) or ragged(weight) or _out_of_range(weight)


def not_plain(weight: QuantizedTensor) -> str | None:
    """Why a weight lacks plain scales and integer zero points, one each per group; None if it has them."""
    if weight.grid.real_zero_point:
        return "its zero points are not integers"
    storage = weight.grid.storage
    if not isinstance(storage, Plain) or storage.holds_shift:
        return f"its scales are stored as {storage.name!r}"
    return None


def _out_of_range(weight: QuantizedTensor) -> str | None:
    off = (weight.scale.half().float() - weight.scale).abs() > _PRECISION * weight.scale.abs()
    if bool(off.any()):
        return f"a scale of {weight.scale[off][0]:.3g} does not fit float16"
    return None


def counted(weight: QuantizedTensor) -> Counted:
    """Unsigned codes of an integer weight; a per-tensor scale is repeated for each row."""
    offset = 0 if weight.zero_point is not None else 2 ** (weight.bits - 1)
    scales = weight.scale.expand(weight.codes.shape[0], -1)
    zeros = torch.full(scales.shape, offset) if weight.zero_point is None else weight.zero_point.expand(scales.shape)
    codes = (weight.codes.to(torch.int16) + offset).to(torch.uint8)
    return Counted(codes, zeros.to(torch.uint8), scales.half())
