"""Resolve a model source (name, path or hub id) to the model's folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from slmquant.boundary import guarded, or_none
from slmquant.cache.entries import entry_path, is_sound
from slmquant.cache.write import About, writing
from slmquant.errors import ModelError, SlmquantError, SourceError, UnknownNameError
from slmquant.files import atomic_file, cache_dir, sha256
from slmquant.model.sources.catalog import KNOWN, KnownModel
from slmquant.model.sources.provenance import Provenance, read_provenance
from slmquant.progress import Progress, Silent

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ON_GRID_SUFFIX = "-on-grid"
TRAINED = "trained"
"""Kind of the cache's entries that hold models of the laboratory."""


@dataclass(frozen=True)
class LocalModel:
    """A model in the cache."""

    name: str
    folder: Path
    architecture: str | None
    """`model_type` of its config; None if the config states none."""
    size_bytes: int
    """Total size of its files."""
    provenance: Provenance | None
    """None for a folder that slmquant did not write."""


_CONVERSION = 1
"""Version of what a GGUF file is converted to; part of the key of converted models."""


def models_dir() -> Path:
    """Folder of pulled models, one subfolder per model."""
    return cache_dir() / "models"


def trained_model(name: str) -> Path | None:
    """Folder of a model that `slmquant lab` trained; its name ends with the beginning of its key in the cache."""
    if re.fullmatch(r"lab-[\w-]+-[0-9a-f]{8}", name) is None:
        return None
    return next((cache_dir() / TRAINED).glob(f"{name[-8:]}*/{name}"), None)


def local_models() -> list[LocalModel]:
    """The models in the cache, sorted by name."""
    folders = sorted(path.parent for path in models_dir().glob("[!.]*/config.json"))
    return [_local(folder) for folder in folders]


def _local(folder: Path) -> LocalModel:
    """Facts of a model folder; unreadable ones are None (loading the model reports errors)."""
    model_type = or_none(lambda: json.loads((folder / "config.json").read_bytes()).get("model_type"))
    return LocalModel(
        name=folder.name,
        folder=folder,
        architecture=model_type if isinstance(model_type, str) else None,
        size_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        provenance=or_none(lambda: read_provenance(folder)),
    )


def resolve(source: str, progress: Progress | None = None) -> Path:
    """The folder, in transformers' format, of the model that `source` names.

    `source` is tried in this order: a name in the cache (pulled, or trained by `slmquant lab`) or among the known
    models; a local folder; a local `.gguf` file, which is converted once and cached; a hub id `organisation/name`,
    which transformers' own client downloads.

    Raises:
        UnknownNameError: `source` looks like a name, but is unknown.
        SourceError: The source is known but not on this machine, or the hub cannot be reached.
        ModelError: A GGUF file cannot be read.
    """
    pulled = models_dir() / source
    is_name = re.fullmatch(r"[\w.-]+", source) is not None
    if is_name and (pulled / "config.json").exists():
        return pulled
    if (trained := trained_model(source)) is not None:
        return trained
    if is_name and source.removesuffix(ON_GRID_SUFFIX) in KNOWN:
        flag = " --on-grid" if source.endswith(ON_GRID_SUFFIX) else ""
        raise SourceError(
            f"{source} is not on this machine yet; run: slmquant pull {source.removesuffix(ON_GRID_SUFFIX)}{flag}"
        )
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise SourceError(f"there is no file {source}; check the path")
        return _converted(path, progress or Silent())
    if path.is_file():
        raise ModelError(f"{source} is a single file; expected a folder, a .gguf file, a known name or a hub id")
    if _HUB_ID.fullmatch(source):
        return _from_hub(source)
    if not is_name:
        raise SourceError(f"there is no folder {source}; expected a folder, a .gguf file, a known name or a hub id")
    raise UnknownNameError("model", source, {*KNOWN, *(model.name for model in local_models())})


def check_source(source: str) -> None:
    """Check that `source` is a known name, or may be a path or a hub id; nothing is fetched or converted.

    Raises:
        UnknownNameError: It looks like a name, but is unknown; the message suggests similar names.
    """
    known = {*KNOWN, *(model.name for model in local_models())}
    is_name = re.fullmatch(r"[\w.-]+", source) is not None
    is_known = source.removesuffix(ON_GRID_SUFFIX) in known or trained_model(source) is not None
    if is_name and not is_known and not is_path(source):
        raise UnknownNameError("model", source, known)


def place_of(source: str) -> Path | None:
    """Local path of `source`; None if it is not on this machine. Nothing is fetched or converted."""
    pulled = models_dir() / source
    if re.fullmatch(r"[\w.-]+", source) and (pulled / "config.json").exists():
        return pulled
    path = trained_model(source) or Path(source).expanduser()
    return path if path.exists() else None


def is_path(source: str) -> bool:
    """Whether `source` is a local path, not a name or hub id."""
    return Path(source).is_absolute() or source.startswith((".", "~")) or Path(source).exists()


def public_name(source: str) -> str:
    """`source` without local folders, because artifacts may be shared."""
    return Path(source).expanduser().resolve().name if is_path(source) else source


def remember_place(source: str, weights: str) -> None:
    """Store the local path of a source in the cache, so that artifacts can state its `public_name` only.

    Errors in writing are ignored.

    Args:
        source: The source, as the user gave it.
        weights: Fingerprint of its weights.
    """
    place = place_of(source)
    if place is None or not is_path(source):
        return
    kept = _place_file(public_name(source), weights)
    with contextlib.suppress(SlmquantError, OSError), atomic_file(kept) as temporary:
        temporary.write_text(str(place.resolve()), encoding="utf-8")


def remembered_source(source: str, weights: str) -> str:
    """The stored path of the source that an artifact names; the name itself if none is stored."""
    kept = or_none(lambda: _place_file(source, weights).read_text(encoding="utf-8"))
    return kept or source


def _place_file(name: str, weights: str) -> Path:
    digest = hashlib.sha256(f"{name} {weights}".encode()).hexdigest()
    return cache_dir() / "sources" / digest[:32]


def folder_of_files(model: KnownModel) -> Path:
    """The folder `models/NAME` next to the data folder, for the files of a model that no package contains.

    Raises:
        SourceError: The folder is missing, or lacks one of the files.
    """
    names = " and ".join(file.name for file in model.files)
    data = os.environ.get("SLMQUANT_DATA")
    folder = Path(data).expanduser().parent / "models" / model.name if data else None
    if folder is None or not folder.is_dir():
        raise SourceError(
            f"no package contains {model.name}; run: slmquant pull {model.name} --from DIR with {names} in DIR"
        )
    if absent := [file.name for file in model.files if not (folder / file.name).is_file()]:
        raise SourceError(
            f"{folder} has no {' and no '.join(absent)}, which {model.name} is made from; "
            f"run: slmquant pull {model.name} --from DIR with {names} in DIR"
        )
    return folder


def licence_of(folder: Path) -> str | None:
    """The licence declared in the model card (README.md) of `folder`; None if there is none."""
    card = folder / "README.md"
    if not card.exists():
        return None
    declared = re.search(
        r"^license:\s*(\S+)\s*$", card.read_text(encoding="utf-8", errors="replace")[:4000], re.MULTILINE
    )
    return declared[1] if declared else None


def _converted(path: Path, progress: Progress) -> Path:
    """The folder converted from a GGUF file; converted now unless it is cached."""
    key = [_CONVERSION, version("transformers"), path.stem, digest := sha256(path)]
    entry = entry_path(cache_dir(), "converted", key)
    if not is_sound(entry):
        from slmquant.model.sources.importing import convert_gguf  # imports torch, which resolving does not need

        with writing(entry, About(path.stem, "converted from GGUF")) as temporary:
            convert_gguf(path, digest, temporary / path.stem, progress)
    return entry / path.stem


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    unreachable = guarded(
        lambda why: (
            f"{hub_id} is not in the hub cache and the hub cannot be reached ({why}); "
            "connect, give a local folder, or see: slmquant models"
        ),
        SourceError,
        say=lambda error: type(error).__name__,
    )
    try:
        with unreachable:
            return Path(
                snapshot_download(
                    hub_id,
                    allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md"],
                    ignore_patterns=["*/*"],  # the same weights in other formats
                )
            )
    except RepositoryNotFoundError:
        raise SourceError(f"the hub has no model {hub_id} that you may read; check the name and your login") from None
