"""`slmquant.json`: what slmquant's own format says beside its tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from slmquant.formats._weights import WeightFacts, WeightFacts1
from slmquant.model.online import OnlineFact

VERSION = 2
"""2: every number format and side branches; 1 knew integers alone and is still read."""
MANIFEST = "slmquant.json"


class Manifest(BaseModel):
    """`slmquant.json`: what was done, and how to read the tensors."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["slmquant"] = "slmquant"
    version: int = VERSION
    method: str
    scheme: str
    source: str
    """The model source, as given."""
    source_sha256: str
    """Fingerprint of the full-precision weights."""
    slmquant: str
    """Version that wrote it."""
    embeddings: tuple[str, ...]
    """Which of `weights` are embeddings or head."""
    groups: tuple[tuple[str, ...], ...]
    """Linears that share the quantizer of their input."""
    weights: dict[str, WeightFacts | WeightFacts1]
    activation_scales: dict[str, float]
    online: tuple[OnlineFact, ...] = ()
    """Rotations that are done while the model runs."""
