"""What a folder of weights says about itself: `slmquant_provenance.json` beside its `config.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slmquant.boundary import reading

PROVENANCE_FILE = "slmquant_provenance.json"


class Rescaling(BaseModel):
    """How weights were moved off a grid, and what that did to the logits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    channels: int
    """Channels that got a factor."""
    max_abs_logit_change: float
    """Largest change of a logit over a fixed token sequence, computed in float64."""


class Provenance(BaseModel):
    """Where the weights of a folder come from. Written by the importers, read by `loading`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The known model's name, or the converted file's."""
    source: str
    """`package:<name>==<version>, ...` or `file:<name>`; never a path of this machine."""
    files: dict[str, str]
    """The files it was made from → their SHA-256."""
    description: str
    """`original, float32`, `dequantized from GGUF Q4_1, off-grid`, ...: what a report prints."""
    weights_dtype: str = "float32"
    """The stored dtype of `model.safetensors`."""
    weights_sha256: str
    """Fingerprint of the weights as written, so that later damage is seen."""
    rescaling: Rescaling | None = None
    """None where the weights are as they came."""
    licence: str | None = None
    slmquant_version: str


def read_provenance(folder: Path) -> Provenance | None:
    """What `folder` says of itself; None where it is not one of slmquant's.

    Raises:
        ModelError: The file is there and cannot be read.
    """
    path = folder / PROVENANCE_FILE
    if not path.exists():
        return None
    with reading(path, "what slmquant wrote of a model", "pull or convert the model again"):
        return Provenance.model_validate_json(path.read_bytes())
