"""Quantization schemes as frozen data; the constructor rejects contradictions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
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
"""Bits of everything that a scheme does not quantize (norms, biases, and embeddings without an `E` part)."""

CHOSEN = "max-"
"""Beginning of the names of schemes whose types are chosen for a number of bytes."""
SIZE_UNITS: Mapping[str, int] = MappingProxyType({"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1})
"""Units of file sizes in names of schemes → bytes."""

ActivationFormat = Literal["INT", "FP8", "FP8E5M2", BlockName]


@dataclass(frozen=True)
class WeightSpec:
    """Storage of one kind of weight: linears, or embeddings and head.

    Attributes:
        format: The number format.
        granularity: Weights that share a scale; `PerGroup(block)` for a format with a fixed block size.
        double_quantized: Whether scales are quantized as well (QLoRA).
    """

    format: WeightFormat
    granularity: Granularity
    double_quantized: bool = False

    def __post_init__(self) -> None:
        block = getattr(self.format, "block_size", None)
        if block is not None and self.granularity != PerGroup(block):
            raise SchemeError(f"{self.format.name} has a fixed group size; write just {self.format.name!r}")
        if self.double_quantized and (
            self.format.name not in ("NF4", "FP4") or not isinstance(self.granularity, PerGroup)
        ):
            raise SchemeError("-dq quantizes the scales of NF4 or FP4 groups; write e.g. 'NF4g64-dq'")

    @property
    def scale_bits(self) -> int:
        """Stored bits of one plain scale: 16 (float16) per group, 32 (float32) per channel or per tensor."""
        return 16 if isinstance(self.granularity, PerGroup) else 32


@dataclass(frozen=True)
class ActivationSpec:
    """Number format of the inputs of linears, always symmetric.

    Attributes:
        bits: Bits of an element; 2 to 8 for integers.
        static: True for one calibrated scale per tensor; False for scales computed at run time, per token or block.
        format: Integers, FP8, or a format with blocks of channels.
    """

    bits: int
    static: bool = False
    format: ActivationFormat = "INT"

    def __post_init__(self) -> None:
        if self.format == "INT" and not 2 <= self.bits <= 8:
            raise SchemeError(f"{self.bits}-bit activations are not supported; expected 2 to 8, or A16 for none")
        if self.static and self.block_size is not None:
            raise SchemeError(f"{self.format} computes the scales of its blocks at run time; drop -static")

    @classmethod
    def of(cls, format: ActivationFormat, static: bool = False) -> ActivationSpec:
        """The spec of a format that is not plain integers."""
        assert format != "INT"  # noqa: S101  # for the type checker
        return cls(NumberFormat(format).bits, static, format)

    @property
    def element(self) -> ElementName | None:
        """Name of the element type; None for integers."""
        return None if self.format == "INT" else NumberFormat(self.format).element

    @property
    def block_size(self) -> int | None:
        """Channels that share a scale; None if scales are per token or per tensor."""
        return None if self.format == "INT" else NumberFormat(self.format).block_size

    @property
    def name(self) -> str:
        """The part after the A in a scheme's name."""
        return str(self.bits) if self.format == "INT" else self.format


@dataclass(frozen=True)
class Scheme:
    """The number formats of a whole model. Make one with `parse("W4A16g64")`.

    Attributes:
        weights: Linears of the blocks; None leaves them in 16 bits.
        activations: Inputs of those linears; None leaves them unquantized.
        kv: The key-value cache; None leaves it unquantized.
        embeddings: Input embeddings and output head, tied or not; None leaves them in 16 bits.
        mixture: A mixture of GGUF types (Q4_K_M): `weights` is then the type of most linears, `embeddings` the type
            of the head. Make it with `of_mixture`.
        special: A GGUF type that slmquant cannot round to (IQ2_XXS); all other parts are then None.
        table: A mixture given weight by weight: (module, storage) sorted by module, None for 16 bits; `weights` is then
            the most frequent storage. Make it with `of_table`.
        max_bytes: Most bytes of a GGUF file, for which the method chooses a type for every weight; all other parts are
            then None.
    """

    weights: WeightSpec | None = None
    activations: ActivationSpec | None = None
    kv: KvSpec | None = None
    embeddings: WeightSpec | None = None
    mixture: MixtureName | None = None
    special: GgufType | None = None
    table: tuple[tuple[str, WeightSpec | None], ...] | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        parts = (self.weights, self.activations, self.kv, self.embeddings, self.mixture)
        if self.special is not None and any(part is not None for part in parts):
            raise SchemeError(f"{self.special.name} is a complete scheme and takes no W, A, KV or E part; drop those")
        if self.embeddings is None or self.weights is None:
            return
        if self.embeddings != embeddings_like(self.weights, self.embeddings.format.bits):
            raise SchemeError(
                "embeddings must be integers grouped like the linears, or a GGUF type if the linears have a GGUF type; "
                "the grammar has no name for anything else"
            )

    @classmethod
    def of_mixture(cls, name: MixtureName) -> Scheme:
        """The scheme of a GGUF mixture."""
        mixture = MIXTURES[name]
        head = mixture.favoured["head"].type
        return cls(weights=gguf_spec(mixture.base), embeddings=gguf_spec(head), mixture=name)

    @classmethod
    def of_table(cls, storages: Mapping[str, WeightSpec | None]) -> Scheme:
        """The scheme that stores each weight as `storages` says, by module name; None stands for 16 bits."""
        table = tuple(sorted(storages.items(), key=lambda pair: pair[0]))
        frequent = Counter(spec for _, spec in table if spec is not None).most_common(1)
        return cls(weights=frequent[0][0] if frequent else None, table=table)

    @property
    def listed(self) -> dict[str, str] | None:
        """Module → scheme name of its storage, of a mixture that is given weight by weight; None of any other."""
        return None if self.table is None else {module: str(Scheme(spec)) for module, spec in self.table}

    @property
    def rounds_embeddings(self) -> bool:
        """Whether embeddings or head may be quantized; a table has to be asked for their names."""
        return self.embeddings is not None or self.table is not None or self.max_bytes is not None

    @property
    def weight_specs(self) -> tuple[WeightSpec, ...]:
        """Every storage that a weight may get: linears, embeddings and head."""
        if self.table is not None:
            return tuple(dict.fromkeys(spec for _, spec in self.table if spec is not None))
        if self.max_bytes is not None:
            return (gguf_spec("Q8_0"),)  # others depend on the rows of a weight
        if self.mixture is not None:
            return tuple(gguf_spec(name) for name in MIXTURES[self.mixture].types)
        return tuple(spec for spec in (self.weights, self.embeddings) if spec is not None)

    @property
    def is_full_precision(self) -> bool:
        """True for W16A16: nothing is quantized."""
        return self == Scheme()

    def __str__(self) -> str:
        """The scheme's name; `parse(str(scheme)) == scheme`, but for a table, whose name has a hash of its content."""
        if self.special is not None:
            return self.special.name
        if self.mixture is not None:
            return self.mixture
        if self.table is not None:
            return table_name(self.table)
        if self.max_bytes is not None:
            return f"{CHOSEN}{size_name(self.max_bytes)}"
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


def table_name(table: Sequence[tuple[str, WeightSpec | None]]) -> str:
    """The name of a mixture that is given weight by weight: the same for the same content."""
    content = "".join(f"{module} {Scheme(spec)}\n" for module, spec in table)
    return f"mix-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def size_name(count: int) -> str:
    """A number of bytes in its largest decimal unit, exactly: `91.74MB`."""
    unit, size = next((unit, size) for unit, size in SIZE_UNITS.items() if count >= size)
    return f"{Decimal(count) / size:f}{unit}"


def activations_with(weights: WeightFormat | None) -> ActivationSpec | None:
    """Activations implied by a weight format without an A part: the same format for FP8, MX and NVFP4, else None."""
    if not isinstance(weights, NumberFormat):
        return None
    name = weights.name
    if name == "FP6" or name == "FP6E2M3" or name == "FP4" or name == "NF4":  # mypy narrows by ==
        return None
    return ActivationSpec.of(name)


def gguf_spec(name: GgufName) -> WeightSpec:
    """The weight storage of a GGUF type."""
    return WeightSpec(GgufType(name), PerGroup(GgufType(name).block_size))


def embeddings_like(weights: WeightSpec, bits: int) -> WeightSpec:
    """Embedding storage for `E<bits>`: integers grouped like `weights`, or a GGUF type if `weights` has one."""
    if isinstance(weights.format, GgufType):
        same = weights.format.name if weights.format.name.startswith(f"IQ{bits}_") else f"Q{bits}_K"
        name = "Q8_0" if bits == 8 else same
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
