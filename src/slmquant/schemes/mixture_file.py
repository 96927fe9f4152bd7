"""Mixtures as data: a JSON file that gives the number format of every weight of a model, and why.

    {
      "slmquant_mixture": 1,
      "model": "smollm2-135m-instruct",
      "weights": {
        "model.embed_tokens": {"type": "Q8_0", "why": "head"},
        "model.layers.0.self_attn.q_proj": "Q4_0",
        ...
      }
    }

Weights are named as in transformers' models. A type is a scheme name that is about weights alone: a type of GGUF
(`Q5_0`), integers (`W4A16g64`), a number format (`NF4g64`), or `W16A16` for an embedding or head in 16 bits. Every
linear of the blocks, the embedding and the head must be named; `slmquant mixture MODEL SCHEME` writes a file to begin
with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slmquant.boundary import guarded
from slmquant.errors import SchemeError
from slmquant.files import atomic_file
from slmquant.schemes.grammar import parse
from slmquant.schemes.kept_mixtures import keep_mixture
from slmquant.schemes.scheme import Scheme, WeightSpec

__all__ = ["SUFFIX", "WeightType", "kept_scheme", "read_mixture", "write_mixture"]

SUFFIX = ".json"
"""End of the name of a mixture file where a scheme's name may stand."""
_LARGEST_FILE = 1 << 24


class WeightType(BaseModel):
    """The number format of a weight, by its scheme name, and why it was chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    why: str = ""

    @field_validator("type")
    @classmethod
    def _is_about_weights(cls, name: str) -> str:
        try:
            scheme = parse(name)
        except SchemeError as error:
            raise ValueError(str(error)) from error  # pydantic adds the weight's name
        if scheme.activations or scheme.kv or scheme.embeddings or scheme.special:
            raise ValueError(f"{name} is not the format of one weight; write e.g. Q4_0, W4A16g64 or W16A16")
        return str(scheme)

    @property
    def spec(self) -> WeightSpec | None:
        """The storage that the name stands for; None for 16 bits."""
        return parse(self.type).weights


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    slmquant_mixture: Literal[1]
    model: str | None = None
    notes: tuple[str, ...] = ()
    weights: dict[str, WeightType] = Field(min_length=1)

    @field_validator("weights", mode="before")
    @classmethod
    def _names_alone_are_types(cls, weights: object) -> object:
        if not isinstance(weights, dict):
            return weights
        return {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in weights.items()}


def read_mixture(path: Path) -> Scheme:
    """Read a mixture file as a scheme.

    Raises:
        SchemeError: The file is missing or malformed, or a type is not known; the message names the weight.
    """
    return _scheme(_read(path))


def kept_scheme(path: Path) -> Scheme:
    """Read a mixture file, and keep the mixture in the cache, so that `parse` reads its name on this machine.

    Raises:
        SchemeError: As for `read_mixture`.
        OutputError, SpaceError: The cache cannot be written.
    """
    read = _read(path)
    scheme = _scheme(read)
    keep_mixture(str(scheme), read.model or path.name, {name: kind.type for name, kind in read.weights.items()})
    return scheme


def _scheme(read: _File) -> Scheme:
    return Scheme.of_table({name: kind.spec for name, kind in read.weights.items()})


def _read(path: Path) -> _File:
    with guarded(lambda why: f"cannot read the mixture {path}: {why}", SchemeError):
        size = path.stat().st_size
        content = path.read_bytes() if size <= _LARGEST_FILE else b""
    if size > _LARGEST_FILE:
        raise SchemeError(f"{path} is too large for a mixture: {size} bytes, expected at most {_LARGEST_FILE}")
    try:
        return _File.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SchemeError(f"mixture {path}, {where}: {first['msg']}") from error


def write_mixture(path: Path, weights: Mapping[str, WeightType], model: str, notes: tuple[str, ...] = ()) -> None:
    """Write a mixture file, atomically; `notes` say what measurements decided."""
    content = _File(slmquant_mixture=1, model=model, notes=notes, weights=dict(weights))
    with atomic_file(path) as temporary:
        temporary.write_text(content.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8")
