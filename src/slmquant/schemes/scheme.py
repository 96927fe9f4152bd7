"""A scheme as frozen data; contradictions are refused when it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from slmquant.errors import SchemeError
from slmquant.schemes.kv import KvSpec
from slmquant.schemes.mixtures import MIXTURES, MixtureName
from slmquant.schemes.numbers import (
    BlockName,
    ElementName,
    GgufName,
    GgufType,
    Granularity,
    IntegerFormat,
    NumberFormat,
    PerChannel,
    PerGroup,
    PerTensor,
    TernaryFormat,
    WeightFormat,
)

FULL_PRECISION_BITS = 16
"""Bits of everything a scheme leaves alone (norms, biases, and embeddings without an `E` part)."""

ActivationFormat = Literal["INT", "FP8", "FP8E5M2", BlockName]


@dataclass(frozen=True)
class WeightSpec:
    """How one kind of weight is stored: linears, or embeddings and head.

    Attributes:
        format: Its numbers.
        granularity: How many of them share a scale; a format with blocks of its own has `PerGroup(block)`.
        double_quantized: Whether scales are quantized as well (QLoRA).
    """

    format: WeightFormat
    granularity: Granularity
    double_quantized: bool = False

    def __post_init__(self) -> None:
        block = getattr(self.format, "block_size", None)
        if block is not None and self.granularity != PerGroup(block):
            raise SchemeError(f"{self.format.name} has a fixed group size; write {self.format.name!r} alone")
        if self.double_quantized and (
            self.format.name not in ("NF4", "FP4") or not isinstance(self.granularity, PerGroup)
        ):
            raise SchemeError("-dq quantizes the scales of NF4 or FP4 groups; write e.g. 'NF4g64-dq'")

    @property
    def scale_bits(self) -> int:
        """Stored bits of one plain scale: float16 for groups, float32 where there is only one for a channel or more."""
        return 16 if isinstance(self.granularity, PerGroup) else 32


@dataclass(frozen=True)
class ActivationSpec:
    """How the inputs of linears are rounded, always symmetrically.

    Attributes:
        bits: Of an element; 2 to 8 for integers.
        static: False, scales are found while running, one per token or block; True, one per tensor, calibrated.
        format: Integers, FP8, or a format with blocks of channels.
    """

    bits: int
    static: bool = False
    format: ActivationFormat = "INT"

    def __post_init__(self) -> None:
        if self.format == "INT" and not 2 <= self.bits <= 8:
            raise SchemeError(f"{self.bits}-bit activations are not supported; expected 2 to 8, or A16 for none")
        if self.static and self.block_size is not None:
            raise SchemeError(f"{self.format} finds the scales of its blocks while running; drop -static")

    @classmethod
    def of(cls, format: ActivationFormat, static: bool = False) -> ActivationSpec:
        """The spec of a format that is not plain integers."""
        assert format != "INT"  # noqa: S101  # for the type checker
        return cls(NumberFormat(format).bits, static, format)

    @property
    def element(self) -> ElementName | None:
        """Its elements; None for integers."""
        return None if self.format == "INT" else NumberFormat(self.format).element

    @property
    def block_size(self) -> int | None:
        """Channels that share a scale; None where tokens have one."""
        return None if self.format == "INT" else NumberFormat(self.format).block_size

    @property
    def name(self) -> str:
        """What follows the A in a scheme's name."""
        return str(self.bits) if self.format == "INT" else self.format


@dataclass(frozen=True)
class Scheme:
    """Which numbers a whole model is made of. Make one with `parse("W4A16g64")`.

    Attributes:
        weights: Linears of the blocks; None leaves them in 16 bits.
        activations: Inputs of those linears; None leaves them alone.
        kv: The key-value cache; None leaves it alone.
        embeddings: Input embeddings and output head, tied or not; None leaves them in 16 bits.
        mixture: A mixture of GGUF types (Q4_K_M): `weights` are what most linears have, `embeddings` what the head
            has. Make it with `of_mixture`.
        special: A GGUF type that no weight can be rounded to here (IQ2_XXS), in place of all of the above.
    """

    weights: WeightSpec | None = None
    activations: ActivationSpec | None = None
    kv: KvSpec | None = None
    embeddings: WeightSpec | None = None
    mixture: MixtureName | None = None
    special: GgufType | None = None

    def __post_init__(self) -> None:
        parts = (self.weights, self.activations, self.kv, self.embeddings, self.mixture)
        if self.special is not None and any(part is not None for part in parts):
            raise SchemeError(f"{self.special.name} is a scheme of its own; it takes no W, A, KV or E part")
        if self.embeddings is None or self.weights is None:
            return
        if self.embeddings != embeddings_like(self.weights, self.embeddings.format.bits):
            raise SchemeError(
                "embeddings are integers grouped as the linears are, or a GGUF type beside a GGUF type; "
                "the grammar has no other way to say it"
            )

    @classmethod
    def of_mixture(cls, name: MixtureName) -> Scheme:
        """One of GGUF's mixtures."""
        mixture = MIXTURES[name]
        head = mixture.favoured["head"].type
        return cls(weights=gguf_spec(mixture.base), embeddings=gguf_spec(head), mixture=name)

    @property
    def weight_specs(self) -> tuple[WeightSpec, ...]:
        """All that weights may be stored as: linears, embeddings and head."""
        if self.mixture is not None:
            return tuple(gguf_spec(name) for name in MIXTURES[self.mixture].types)
        return tuple(spec for spec in (self.weights, self.embeddings) if spec is not None)

    @property
    def is_full_precision(self) -> bool:
        """True for W16A16: nothing is quantized."""
        return self == Scheme()

    def __str__(self) -> str:
        """The scheme's name; `parse(str(scheme)) == scheme`."""
        if self.special is not None:
            return self.special.name
        if self.mixture is not None:
            return self.mixture
        spec = self.weights or self.embeddings
        name = self.weights.format.name if self.weights else f"W{FULL_PRECISION_BITS}"
        dynamic = replace(self.activations, static=False) if self.activations else None
        if name.startswith("W") or dynamic != activations_with(self.weights.format if self.weights else None):
            name += f"A{dynamic.name if dynamic else FULL_PRECISION_BITS}"
        if self.kv is not None:
            name += "KVFP8" if self.kv.floating else f"KV{self.kv.bits}{'c' if self.kv.key_tokens else ''}"
        if spec and isinstance(spec.granularity, PerGroup) and getattr(spec.format, "block_size", None) is None:
            name += f"g{spec.granularity.size}"
        if self.embeddings:
            name += f"E{self.embeddings.format.bits}"
        if spec and isinstance(spec.granularity, PerTensor):
            name += "-tensor"
        if spec and isinstance(spec.format, IntegerFormat) and not spec.format.symmetric:
            name += "-asym"
        if spec and spec.double_quantized:
            name += "-dq"
        if self.activations and self.activations.static:
            name += "-static"
        return name


def activations_with(weights: WeightFormat | None) -> ActivationSpec | None:
    """Activations that the name of a format means where it has no A part: its own for FP8, MX and NVFP4."""
    if not isinstance(weights, NumberFormat):
        return None
    name = weights.name
    if name == "FP6" or name == "FP6E2M3" or name == "FP4" or name == "NF4":  # mypy narrows by ==
        return None
    return ActivationSpec.of(name)


def gguf_spec(name: GgufName) -> WeightSpec:
    """A weight of one of GGUF's types."""
    return WeightSpec(GgufType(name), PerGroup(GgufType(name).block_size))


def embeddings_like(weights: WeightSpec, bits: int) -> WeightSpec:
    """What `E<bits>` means beside such weights: integers with their groups; beside a GGUF type, one of GGUF's."""
    if isinstance(weights.format, GgufType):
        name = "Q8_0" if bits == 8 else f"Q{bits}_K"
        if name not in get_args(GgufName):
            raise SchemeError(f"GGUF has no {bits}-bit type for embeddings; expected E2 to E6 or E8")
        return gguf_spec(cast(GgufName, name))
    symmetric = not isinstance(weights.format, IntegerFormat) or weights.format.symmetric
    return WeightSpec(IntegerFormat(bits, symmetric), weights.granularity)


__all__ = [
    "FULL_PRECISION_BITS",
    "ActivationFormat",
    "ActivationSpec",
    "GgufType",
    "Granularity",
    "IntegerFormat",
    "KvSpec",
    "NumberFormat",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Scheme",
    "TernaryFormat",
    "WeightSpec",
    "activations_with",
    "embeddings_like",
    "gguf_spec",
]
