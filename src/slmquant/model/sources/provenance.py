"""Origin of a folder of weights: `slmquant_provenance.json` next to its `config.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slmquant.boundary import reading

PROVENANCE_FILE = "slmquant_provenance.json"


class Rescaling(BaseModel):
    """How weights were moved off a quantization grid, and the effect on the logits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    channels: int
    """Number of rescaled channels."""
    max_abs_logit_change: float
    """Largest change of a logit over a fixed token sequence, computed in float64."""


class Provenance(BaseModel):
    """Origin of the weights in a folder. Written by the importers, read by `sources.load`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The known model's name, or the converted file's."""
    source: str
    """`package:<name>==<version>, ...` or `file:<name>`; never a path of this machine."""
    files: dict[str, str]
    """Files that the model was made from → their SHA-256."""
    description: str
    """`original, float32`, `dequantized from GGUF Q4_1, off-grid`, ...; shown in reports."""
    weights_dtype: str = "float32"
    """Dtype of the weights in `model.safetensors`."""
    weights_sha256: str
    """Fingerprint of the weights as written, to detect later changes."""
    rescaling: Rescaling | None = None
    """None if the weights were not rescaled."""
    licence: str | None = None
    slmquant_version: str


def read_provenance(folder: Path) -> Provenance | None:
    """Read the provenance of `folder`; None if slmquant did not write it.

    Raises:
        ModelError: The file exists but cannot be read.
    """
    path = folder / PROVENANCE_FILE
    if not path.exists():
        return None
    with reading(path, "a provenance file of slmquant", "pull or convert the model again"):
        return Provenance.model_validate_json(path.read_bytes())
