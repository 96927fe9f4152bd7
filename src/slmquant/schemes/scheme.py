"""A scheme as frozen data; contradictions are refused when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slmquant.errors import SchemeError

FULL_PRECISION_BITS = 16
"""Bits of everything a scheme leaves alone (norms, biases, and embeddings without an `E` part)."""

FloatName = Literal["FP8", "MXFP4", "NVFP4", "NF4"]


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole weight: `(out, in)` → scales `(1, 1)`."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each output channel: `(out, in)` → scales `(out, 1)`."""


@dataclass(frozen=True)
class PerGroup:
    """One scale for `size` consecutive inputs of a channel: `(out, in)` → scales `(out, ceil(in / size))`.

    Where `size` does not divide `in`, the last group is shorter.
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
            raise SchemeError(f"{self.bits}-bit integers are not supported; expected 2 to 8 bits, or 16 for none")


@dataclass(frozen=True)
class NumberFormat:
    """A floating-point or table format, by its name in the literature."""

    name: FloatName


@dataclass(frozen=True)
class GgufType:
    """A quantization type of GGUF, by its own name (`Q4_K_M`, `Q8_0`)."""

    name: str


@dataclass(frozen=True)
class WeightSpec:
    """How one kind of weight is stored: linears, or embeddings and head."""

    format: IntegerFormat
    granularity: Granularity

    @property
    def scale_bits(self) -> int:
        """Stored bits of one scale: float16 for groups, float32 where there is only one for a channel or more."""
        return 16 if isinstance(self.granularity, PerGroup) else 32


@dataclass(frozen=True)
class ActivationSpec:
    """How the inputs of linears are rounded: always symmetric integers.

    Attributes:
        bits: 2 to 8.
        static: False, one scale per token found while running; True, one scale per tensor, calibrated.
    """

    bits: int
    static: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise SchemeError(f"{self.bits}-bit activations are not supported; expected 2 to 8, or A16 for none")


@dataclass(frozen=True)
class Scheme:
    """Which numbers a whole model is made of. Make one with `parse("W4A16g64")`.

    Attributes:
        weights: Linears of the blocks; None leaves them in 16 bits.
        activations: Inputs of those linears; None leaves them alone.
        kv_bits: Bits of the key-value cache; None leaves it alone.
        embeddings: Input embeddings and output head, tied or not; None leaves them in 16 bits.
        special: A named format that replaces all of the above (FP8, MXFP4, NVFP4, NF4, a GGUF type).
        special_group: Group size of a special format that has a free one (NF4).
    """

    weights: WeightSpec | None = None
    activations: ActivationSpec | None = None
    kv_bits: int | None = None
    embeddings: WeightSpec | None = None
    special: NumberFormat | GgufType | None = None
    special_group: int | None = None

    def __post_init__(self) -> None:
        parts = (self.weights, self.activations, self.kv_bits, self.embeddings)
        if self.special is not None and any(part is not None for part in parts):
            raise SchemeError(f"{self.special.name} is a scheme of its own; it takes no W, A, KV or E part")
        if self.kv_bits is not None and not 2 <= self.kv_bits <= 8:
            raise SchemeError(f"a {self.kv_bits}-bit KV cache is not supported; expected KV2 to KV8")
        if self.embeddings and self.weights and self.embeddings.granularity != self.weights.granularity:
            raise SchemeError("embeddings are grouped as the linears are; the grammar has no other way to say it")

    @property
    def is_full_precision(self) -> bool:
        """True for W16A16: nothing is quantized."""
        return self == Scheme()

    def __str__(self) -> str:
        """The scheme's name; `parse(str(scheme)) == scheme`."""
        if self.special is not None:
            return self.special.name + (f"g{self.special_group}" if self.special_group else "")
        spec = self.weights or self.embeddings
        name = f"W{self.weights.format.bits if self.weights else FULL_PRECISION_BITS}"
        name += f"A{self.activations.bits if self.activations else FULL_PRECISION_BITS}"
        if self.kv_bits is not None:
            name += f"KV{self.kv_bits}"
        if spec and isinstance(spec.granularity, PerGroup):
            name += f"g{spec.granularity.size}"
        if self.embeddings:
            name += f"E{self.embeddings.format.bits}"
        if spec and isinstance(spec.granularity, PerTensor):
            name += "-tensor"
        if spec and not spec.format.symmetric:
            name += "-asym"
        if self.activations and self.activations.static:
            name += "-static"
        return name
