"""`slmquant.json`: the manifest of slmquant's own format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from slmquant.errors import ModelError
from slmquant.files import sha256
from slmquant.formats.native.weights import WeightFacts, WeightFacts1
from slmquant.model.rewriting.online_rotations import OnlineFact
from slmquant.schemes import Scheme, parse

VERSION = 4
"""4: notes. 3: checksums. 2: every number format and side branches. 1: integers only. All are read."""
MANIFEST = "slmquant.json"


class Manifest(BaseModel):
    """`slmquant.json`: how the model was made, and how to read its tensors."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["slmquant"] = "slmquant"
    version: int = VERSION
    method: str
    scheme: str
    mixture: dict[str, str] | None = None
    """Module → scheme name of its storage, if the scheme is a mixture from a file."""
    source: str
    """The model source: a name as given, else the name of its folder or file; older versions store its path."""
    source_sha256: str
    """Fingerprint of the full-precision weights."""
    slmquant: str
    """Version of slmquant that wrote the folder."""
    embeddings: tuple[str, ...]
    """The `weights` that are embeddings or head."""
    groups: tuple[tuple[str, ...], ...]
    """Groups of linears that share the quantizer of their input."""
    weights: dict[str, WeightFacts | WeightFacts1]
    activation_scales: dict[str, float]
    online: tuple[OnlineFact, ...] = ()
    """Rotations performed while the model runs."""
    notes: tuple[str, ...] = ()
    """Remarks of the method, such as what its measurements decided."""
    files: dict[str, str] | None = None
    """Every other file of the folder → its SHA-256; None in versions before 3."""
    sha256: str | None = None
    """Checksum of this manifest; see `digest`."""

    @property
    def stored_scheme(self) -> Scheme:
        """The scheme.

        Raises:
            SchemeError: Its name, or that of a weight's storage, cannot be read.
        """
        if self.mixture is None:
            return parse(self.scheme)
        return Scheme.of_table({name: parse(kind).weights for name, kind in self.mixture.items()})


def digest(content: Mapping[str, JsonValue]) -> str:
    """SHA-256 of a manifest's content without its own `sha256`, independent of JSON formatting."""
    facts = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write(manifest: Manifest, folder: Path) -> None:
    """Write the manifest with checksums; all other files of the folder must be written before."""
    files = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    content = manifest.model_copy(update={"files": files}).model_dump(mode="json")
    content["sha256"] = digest(content)
    (folder / MANIFEST).write_text(json.dumps(content, indent=2), encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Read the manifest of a folder and verify its checksum and those of the other files.

    Raises:
        ModelError: The folder is of a newer version, or a file was changed after it was written.
        OSError, ValueError: The manifest is missing or malformed.
    """
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:  # its fields may differ
        raise ModelError(f"{folder} has format version {version}, this slmquant reads up to {VERSION}; update slmquant")
    manifest = Manifest.model_validate(content)
    if manifest.version < 3:
        return manifest
    if manifest.sha256 != digest(content):
        raise ModelError(f"{folder / MANIFEST} was changed after it was written (its checksum differs); quantize again")
    for name, expected in (manifest.files or {}).items():
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, which {MANIFEST} names; quantize again")
        if (actual := sha256(folder / name)) != expected:
            raise ModelError(
                f"{folder / name} was changed after it was written (SHA-256 {actual[:16]}, expected {expected[:16]}); "
                "quantize again"
            )
    return manifest
