"""The sizes of the ladder, after real small models, and the cells of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from slmquant import versions
from slmquant.errors import RefusedError, UnknownNameError
from slmquant.schemes import parse
from slmquant.store.inputs import Inputs
from slmquant.store.random_weights import PREFIX, RANDOM_WEIGHTS
from slmquant.store.record import REFERENCE, REFERENCE_SCHEME, CellSpec, ModelCard

WIDTHS: Mapping[str, float] = MappingProxyType(
    {REFERENCE_SCHEME: 16.0, "W8A16g32E8": 8 + 16 / 32, "W4A16g32E4": 4 + 16 / 32}
)
"""Scheme → bits of a weight, scales included. All weights have one width, embedding and head, too."""
ARCHITECTURE = "llama"
"""`model_type` of every size; sizes differ in shapes alone."""
_VERSION = 1
"""Version of how weights are drawn; part of the identity of cells."""
_HALF_BYTES = 2


@dataclass(frozen=True)
class Rung:
    """A size: the shapes of one model. Embedding and head are one.

    Attributes:
        name: Its name.
        like: The model whose shapes it has.
        vocabulary: Number of tokens.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward network.
        layers: Decoder layers.
        heads: Heads of queries.
        key_heads: Heads of keys and values.
        head: Width of a head.
    """

    name: str
    like: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head: int

    @property
    def embedding(self) -> int:
        """Weights of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def linears(self) -> int:
        """Weights of all linears of the blocks."""
        attention = 2 * (self.heads + self.key_heads) * self.head
        return self.layers * self.hidden * (attention + 3 * self.intermediate)

    @property
    def parameters(self) -> int:
        """All parameters, gains of norms included."""
        return self.embedding + self.linears + (2 * self.layers + 1) * self.hidden

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values of a sequence in 16 bits."""
        return 2 * self.layers * self.key_heads * self.head * tokens * _HALF_BYTES

    @property
    def model(self) -> str:
        """The model's name in cells."""
        return f"{PREFIX}{self.name}"

    @property
    def card(self) -> ModelCard:
        """Facts about the model."""
        share = self.embedding / self.parameters
        return ModelCard(
            architecture=ARCHITECTURE, parameters=self.parameters, embedding_share=share, provenance=RANDOM_WEIGHTS
        )

    @property
    def sha256(self) -> str:
        """Hash of all that decides the weights."""
        return _digest([_VERSION, RANDOM_WEIGHTS, asdict(self)])

    def cells(self, engine: str) -> dict[str, CellSpec]:
        """Scheme → its cell on an engine, 16 bits first."""
        return {scheme: self._cell(scheme, engine) for scheme in WIDTHS}

    def _cell(self, scheme: str, engine: str) -> CellSpec:
        method = method_of(scheme)
        inputs = Inputs(
            config_sha256=self.sha256,
            tokenizer_sha256=_digest("bytes"),
            stages=(("quantization", versions.STAGES["quantization"]),),
            methods=tuple(versions.of_method(method).items()),
        )
        spec = CellSpec(
            model=self.model, model_sha256=self.sha256, method=method, scheme=str(parse(scheme)), inputs=inputs
        )
        return spec.on(engine)


RUNGS: Mapping[str, Rung] = MappingProxyType(
    {
        rung.name: rung
        for rung in (
            Rung("15m", "stories15M", 32000, 288, 768, 6, 6, 6, 48),
            Rung("42m", "stories42M", 32000, 512, 1376, 8, 8, 8, 64),
            Rung("135m", "SmolLM2-135M", 49152, 576, 1536, 30, 9, 3, 64),
            Rung("270m", "Gemma 3 270M", 262144, 640, 2048, 18, 4, 1, 256),
            Rung("360m", "SmolLM2-360M", 49152, 960, 2560, 32, 15, 5, 64),
            Rung("500m", "Qwen2.5-0.5B", 151936, 896, 4864, 24, 14, 2, 64),
            Rung("1b", "Llama 3.2 1B", 128256, 2048, 8192, 16, 32, 8, 64),
        )
    }
)
"""Name → size, smallest first."""


def rungs_of(names: Sequence[str]) -> tuple[Rung, ...]:
    """The sizes of these names, smallest first.

    Raises:
        RefusedError: There are none.
        UnknownNameError: There is no such size.
    """
    if not names:
        raise RefusedError(f"a ladder needs a size; name some of {', '.join(RUNGS)}")
    for name in names:
        if name not in RUNGS:
            raise UnknownNameError("size", name, RUNGS)
    return tuple(rung for rung in RUNGS.values() if rung.name in names)


def method_of(scheme: str) -> str:
    """The method that makes a width: none, or plain rounding."""
    return REFERENCE if scheme == REFERENCE_SCHEME else "rtn"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
