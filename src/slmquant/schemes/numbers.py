"""Number formats of weights and activations, and granularity of scales, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slmquant.errors import SchemeError

BlockName = Literal["MXFP4", "MXFP6", "MXFP6E2M3", "MXFP8", "MXFP8E5M2", "MXINT8", "NVFP4"]
"""Formats with a fixed block size: OCP microscaling with a power of two for 32 elements, and NVFP4."""

FloatName = Literal["FP8", "FP8E5M2", "FP6", "FP6E2M3", "FP4", "NF4", BlockName]
"""Every format that is not plain integers; plain FP8 is E4M3, plain FP6 is E3M2, FP4 is E2M1."""

ElementName = Literal["E4M3", "E5M2", "E3M2", "E2M3", "E2M1", "NF4"]

GgufName = Literal[
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
]  # fmt: skip
"""GGUF's types of a single tensor; names such as Q4_K_M are mixtures of them."""

_ELEMENTS: dict[FloatName, ElementName | None] = {
    "FP8": "E4M3",
    "FP8E5M2": "E5M2",
    "FP6": "E3M2",
    "FP6E2M3": "E2M3",
    "FP4": "E2M1",
    "NF4": "NF4",
    "MXFP4": "E2M1",
    "MXFP6": "E3M2",
    "MXFP6E2M3": "E2M3",
    "MXFP8": "E4M3",
    "MXFP8E5M2": "E5M2",
    "MXINT8": None,
    "NVFP4": "E2M1",
}
_BITS: dict[ElementName | None, int] = {"E4M3": 8, "E5M2": 8, "E3M2": 6, "E2M3": 6, "E2M1": 4, "NF4": 4, None: 8}
_BLOCKS: dict[FloatName, int] = {
    "MXFP4": 32,
    "MXFP6": 32,
    "MXFP6E2M3": 32,
    "MXFP8": 32,
    "MXFP8E5M2": 32,
    "MXINT8": 32,
    "NVFP4": 16,
}


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole weight: `(out, in)` → scales `(1, 1)`."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each output channel: `(out, in)` → scales `(out, 1)`."""


@dataclass(frozen=True)
class PerGroup:
    """One scale for `size` consecutive inputs of a channel: `(out, in)` → scales `(out, ceil(in / size))`.

    If `size` does not divide `in`, the last group is shorter.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 2:
            raise SchemeError(f"group size {self.size} is too small; expected at least 2, e.g. 32, 64 or 128")


Granularity = PerTensor | PerChannel | PerGroup


@dataclass(frozen=True)
class IntegerFormat:
    """Integer codes: `w ≈ scale · (code − zero_point)`.

    Symmetric codes lie in `[−2^(b−1), 2^(b−1) − 1]` with zero point 0, asymmetric ones in `[0, 2^b − 1]`.
    """

    bits: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise SchemeError(
                f"{self.bits}-bit integers are not supported; expected 2 to 8 bits, 16 for none, or W1.58 for ternary"
            )

    @property
    def name(self) -> str:
        """`W4`."""
        return f"W{self.bits}"


@dataclass(frozen=True)
class TernaryFormat:
    """Weights −1, 0 and 1 times a scale: log2(3) ≈ 1.58 bits each, stored in 1.6."""

    bits: int = 2
    symmetric: bool = True
    name: str = "W1.58"


@dataclass(frozen=True)
class NumberFormat:
    """A floating-point or table format, by its name in the literature."""

    name: FloatName
    symmetric: bool = True

    @property
    def element(self) -> ElementName | None:
        """Name of the element type; None for integers."""
        return _ELEMENTS[self.name]

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return _BITS[self.element]

    @property
    def block_size(self) -> int | None:
        """Inputs that share a scale; None if the format does not fix it."""
        return _BLOCKS.get(self.name)


@dataclass(frozen=True)
class GgufType:
    """A quantization type of GGUF, by its own name: one of `GgufName`, or a mixture (`Q4_K_M`)."""

    name: str

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return int(next(character for character in self.name if character.isdigit()))

    @property
    def symmetric(self) -> bool:
        """Whether the type stores no minima."""
        return self.name in ("Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K") or self.name.startswith("IQ")

    @property
    def block_size(self) -> int:
        """Inputs that share a scale."""
        return 16 if self.name in ("Q2_K", "Q3_K", "Q6_K", "IQ2_S") else 32

    @property
    def row_multiple(self) -> int:
        """Rows that ggml can store in the type have a multiple of this many inputs."""
        return 256 if self.name.endswith(("_K", "S")) else 32

    @property
    def needs_whole_rows(self) -> bool:
        """Whether it is refused for rows that ggml cannot store, although it could be evaluated on them."""
        return self.name.startswith("IQ") and self.row_multiple > self.block_size


WeightFormat = IntegerFormat | TernaryFormat | NumberFormat | GgufType
