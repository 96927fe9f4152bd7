"""Small floating-point formats: sign, a few bits of exponent, a few of mantissa.

The formats are those of the Open Compute Project: FP8 as in the "OCP 8-bit Floating Point Specification" (revision
1.0, 2023; after Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433), FP6 and FP4 as in the "OCP
Microscaling Formats Specification" (version 1.0, 2023; Rouhani et al., arXiv 2310.10537), table 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_HALF = 2.0**-24
"""The smallest float16 above 0, a subnormal number: the smallest scale that can be stored as float16."""


@dataclass(frozen=True)
class MiniFloat:
    """A floating-point format; an exponent field of 0 holds 0 and the subnormal numbers.

    Attributes:
        name: Name in the specification.
        exponent_bits: Width of the exponent field.
        mantissa_bits: Width of the mantissa field.
        bias: Exponent field minus exponent.
        largest: Largest finite number; patterns beyond it are infinities or NaN.
        native: torch's dtype of the format, whose conversion is some ten times faster; None if there is none.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: float
    native: torch.dtype | None = None

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def smallest(self) -> float:
        """The smallest number above 0, a subnormal one."""
        return self._value(1)

    def values(self) -> tuple[float, ...]:
        """The number of every bit pattern, in the order of the patterns; NaN for patterns without a finite number."""
        positive = [self._value(pattern) for pattern in range(2 ** (self.bits - 1))]
        finite = [value if value <= self.largest else float("nan") for value in positive]
        return (*finite, *(-value for value in finite))

    def _value(self, pattern: int) -> float:
        field, mantissa = divmod(pattern, 2**self.mantissa_bits)
        fraction = mantissa / 2**self.mantissa_bits
        if field == 0:
            return math.ldexp(fraction, 1 - self.bias)
        return math.ldexp(1 + fraction, field - self.bias)

    def round(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The nearest numbers of the format, ties to the even mantissa; clamped to the largest number."""
        if self.native is not None:
            return x.clamp(-self.largest, self.largest).to(self.native).to(x.dtype)
        exponent = torch.frexp(x).exponent - 1  # floor(log2|x|)
        step = torch.ldexp(torch.ones_like(x), exponent.clamp_(min=1 - self.bias) - self.mantissa_bits)
        return (x / step).round_().mul_(step).clamp_(-self.largest, self.largest)


def power_below(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """`2^floor(log2 x)`, exactly, for positive numbers."""
    return torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - 1)


E4M3 = MiniFloat("E4M3", 4, 3, 7, 448.0, torch.float8_e4m3fn)
E5M2 = MiniFloat("E5M2", 5, 2, 15, 57344.0, torch.float8_e5m2)
E3M2 = MiniFloat("E3M2", 3, 2, 3, 28.0)
E2M3 = MiniFloat("E2M3", 2, 3, 1, 7.5)
E2M1 = MiniFloat("E2M1", 2, 1, 1, 6.0)
