"""Integer weights as checkpoints count them: codes and zero points from 0, scales in float16."""

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
"""What rounding to a normal float16 changes a number by, relative to it, at most."""


class Counted(NamedTuple):
    """`w = scale · (code − zero)`, with codes and zeros in `[0, 2^bits − 1]`."""

    codes: UInt8[Tensor, "out in"]
    zeros: UInt8[Tensor, "out groups"]
    scales: Float16[Tensor, "out groups"]


class WordLayout:
    """What the layouts of GPTQ and AWQ share: integer weights in 32-bit words, and 16-bit activations."""

    def refusal(self, scheme: Scheme) -> str | None:
        """Weights alone are packed."""
        if scheme.activations is not None:
            return f"{scheme} rounds activations, which this layout cannot say; use compressed_tensors, or A16"
        return None

    def stored(self, weight: QuantizedTensor, scheme: Scheme) -> str:
        """The numbers themselves."""
        del scheme
        return describe(weight)

    def packs(self, parts: Mapping[str, Tensor]) -> bool:
        """A packed weight has codes and scales; one alone is damage, and packed all the same."""
        return "qweight" in parts or "scales" in parts


def misfit(weight: QuantizedTensor, bits: Collection[int]) -> str | None:
    """Why a weight is not integers of so many bits in whole groups with plain scales; None where it is."""
    elements = weight.grid.elements
    if not isinstance(elements, Integers):
        return f"its numbers are {elements.name}, and only integers are held"
    if weight.bits not in bits:
        return f"its codes have {weight.bits} bits, and {', '.join(map(str, sorted(bits)))} are held"
    return no_side(weight) or not_plain(weight) or ragged(weight) or _out_of_range(weight)


def not_plain(weight: QuantizedTensor) -> str | None:
    """Why scales or zero points are not a number and a whole number for each group; None where they are."""
    if weight.grid.real_zero_point:
        return "its zero points are not whole"
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
    """Codes of an integer weight counted from 0; a scale of a whole tensor is repeated for each row."""
    offset = 0 if weight.zero_point is not None else 2 ** (weight.bits - 1)
    scales = weight.scale.expand(weight.codes.shape[0], -1)
    zeros = torch.full(scales.shape, offset) if weight.zero_point is None else weight.zero_point.expand(scales.shape)
    codes = (weight.codes.to(torch.int16) + offset).to(torch.uint8)
    return Counted(codes, zeros.to(torch.uint8), scales.half())
