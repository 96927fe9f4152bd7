"""Read the weights of a GGUF file: dequantized, under module names, rows in the model's order."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from slmquant.boundary import guarded
from slmquant.errors import ModelError
from slmquant.model.gguf.architectures import ARCHITECTURES, row_order

MODEL_TYPE_KEY = "slmquant.model_type"
MODULES_KEY = "slmquant.modules"
"""Key of the list of `target=name` for each tensor: its name in the file, and its module's name."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Module name → float32 weight, as llama.cpp computes with it; a bias under its parameter's name.

    Raises:
        ModelError: The file is truncated, damaged, of an unknown version, or was not made by slmquant.
    """
    reader = _opened(path)
    modules = _contents(reader, MODULES_KEY)
    model_type = _contents(reader, MODEL_TYPE_KEY)
    if not isinstance(modules, list) or model_type not in ARCHITECTURES:
        raise ModelError(
            f"{path.name} was not exported by this version of slmquant: it names no modules; export it again"
        )
    with guarded(lambda why: f"{path.name} has an invalid list of modules ({why}); export it again"):
        names = dict(entry.split("=", 1) for entry in modules)
    weights = {}
    for tensor in reader.tensors:
        if tensor.name in names:
            weights[names[tensor.name]] = _read_one(path, tensor, reader, str(model_type), names[tensor.name])
    return weights


def _read_one(path: Path, tensor: gguf.ReaderTensor, reader: gguf.GGUFReader, model_type: str, name: str) -> Tensor:
    with guarded(lambda why: f"{path.name}: {name!r} cannot be read ({why}); export it again"):
        return _in_model_order(_dense(tensor), reader, model_type, name)


def context_length(path: Path) -> int | None:
    """Context length stated by any GGUF file; None if it states none.

    Raises:
        ModelError: The file is truncated, damaged, or of an unknown version.
    """
    reader = _opened(path)
    stated = _contents(reader, f"{_contents(reader, gguf.Keys.General.ARCHITECTURE)}.context_length")
    return stated if isinstance(stated, int) else None


def _opened(path: Path) -> gguf.GGUFReader:
    unreadable = "is truncated, of an unknown version, or not a GGUF file"
    with guarded(lambda why: f"{path.name} {unreadable} ({why}); export it again"):
        reader = gguf.GGUFReader(path)
        stop = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    if path.stat().st_size < stop:
        raise ModelError(f"{path.name} is truncated ({path.stat().st_size} bytes, expected {stop}); export it again")
    return reader


def _contents(reader: gguf.GGUFReader, key: str) -> object:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _dense(tensor: gguf.ReaderTensor) -> Tensor:
    numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(numbers, dtype=np.float32))


def _in_model_order(values: Tensor, reader: gguf.GGUFReader, model_type: str, name: str) -> Tensor:
    architecture = ARCHITECTURES[model_type]
    if name.endswith(".bias"):
        leaf = name.removesuffix(".bias").rpartition(".")[2]
    else:
        leaf = name.rpartition(".")[2]
        if values.ndim == 1:
            return values - architecture.gain_offset
    rows = architecture.rows.get(leaf)
    if rows is None:
        return values
    key = "head_count_kv" if leaf == "k_proj" else "head_count"
    heads = _contents(reader, f"{architecture.name}.attention.{key}")
    order = row_order(rows, values.shape[0], int(str(heads)))
    return torch.empty_like(values).index_copy(0, order, values)
