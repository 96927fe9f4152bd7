"""Saves a quantized model for another process and loads it again, bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from slmquant.artifact import Artifact
from slmquant.cache.entries import using
from slmquant.cache.write import About, writing
from slmquant.formats import native

_MODEL = "model"
_EXACT = "exact.safetensors"


def save_snapshot(artifact: Artifact, folder: Path) -> None:
    """Write a model to `folder`, whole or not at all.

    The native format rounds tensors that are not quantized to 16 bits. Those that this changes are found by reading
    the file back, and are saved next to it exactly.

    Raises:
        SpaceError: The disk is full.
    """
    with writing(folder, About(artifact.source, "quantized model")) as temporary:
        quantized = artifact.quantized
        native.save(artifact, temporary / _MODEL)
        read = native.load(temporary / _MODEL, quantized.dtype).quantized.model.state_dict()
        exact = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in quantized.model.state_dict().items()
            if name not in read or not torch.equal(read[name], value.cpu())
        }
        save_file(exact, temporary / _EXACT)


def kept_model(folder: Path) -> Path:
    """Path of the native-format model inside a snapshot, with unquantized tensors in 16 bits."""
    return folder / _MODEL


def load_snapshot(folder: Path, dtype: torch.dtype, device: str) -> Artifact:
    """Load a snapshot: the same model, with the same outputs.

    Raises:
        CacheError: The folder is gone or was damaged; then it is removed.
    """
    with using(folder):
        opened = native.load(folder / _MODEL, dtype, device)
        opened.quantized.model.load_state_dict(load_file(folder / _EXACT), strict=False)
    return opened
