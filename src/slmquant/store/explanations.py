"""The explanation of one quantized model: the divergence by part of the model and by kind of prediction."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slmquant.store.experiments import Divergence, Sample
from slmquant.store.record import CalibrationSpec, ComputeDtype, Environment

Family = Literal["operands", "classes", "depth"]
"""A division of all that is rounded into parts: by operand, by class of linears, by block."""
Aspect = Literal["token read", "rarity", "position", "reference"]
"""A division of all predictions: by the token read last, its rarity, its position, and how sure the reference was."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Part(_Frozen):
    """A part of what is rounded."""

    family: Family
    name: str
    alone: Divergence
    """With only this part rounded."""
    given_back: Divergence
    """With everything rounded but this part."""


class Bucket(_Frozen):
    """A kind of predictions, with everything rounded."""

    aspect: Aspect
    name: str
    sums: tuple[tuple[float, ...], ...]
    """Sum of the divergence over its predictions, of each window of each text, in nats."""
    counts: tuple[tuple[int, ...], ...]
    """Number of its predictions, of each window of each text."""


class Guess(_Frozen):
    """A next token and its probability."""

    token: str
    probability: float


class Context(_Frozen):
    """One prediction."""

    text: str
    """The end of what was read."""
    next: str
    """The token that really follows."""
    corpus: str
    position: int
    """Position in its window."""
    divergence: float
    """In nats."""
    reference: Guess
    """The most probable token in full precision."""
    quantized: Guess
    """The most probable token of the quantized model."""


class Explanation(_Frozen):
    """What the divergence of a quantized model comes from, and where it shows."""

    schema_version: Literal[1] = 1
    model: str
    model_sha256: str
    method: str
    scheme: str
    calibration: CalibrationSpec | None
    compute_dtype: ComputeDtype
    samples: tuple[Sample, ...]
    environment: Environment
    finished_at: datetime
    whole: Divergence
    """With everything rounded."""
    none: Divergence
    """With nothing rounded: what the method changed beside rounding."""
    parts: tuple[Part, ...]
    buckets: tuple[Bucket, ...]
    worst: tuple[Context, ...]
    """The predictions that diverge most, the worst first."""
