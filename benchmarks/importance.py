"""Writes files as `llama-quantize --imatrix` does, with ggml's own quantizer and our methods' calibration tokens.

cyllama's binding runs llama.cpp's quantizer only without an importance matrix. The file that it writes determines how
every tensor is stored. Each weight with observed inputs is then rounded again from the float32 file by
`ggml_quantize_chunk` of xllamacpp's library, with the mean square of every channel of the input, which is what
`llama-imatrix` collects (it leaves out embeddings and a tied head, and so does this). One storage type depends on the
matrix: that of the first eighth of `ffn_down`, which becomes Q4_1 in Q4_0 and IQ4_NL, not Q5_K, in IQ4_NL
(`llama_tensor_get_type`).

Before anything is written, one weight is rounded without a matrix and compared with the file: unless the bytes are the
same, the two libraries do not agree.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from slmquant import api
from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.formats.gguf.parameters import architecture_of
from slmquant.model.compatibility.context import fitting
from slmquant.model.discovery.relations import discover
from slmquant.model.sources.load import load
from slmquant.progress import Silent
from slmquant.store.record import CalibrationSpec

Type = gguf.GGMLQuantizationType
PROMOTED = {
    (gguf.LlamaFileType.MOSTLY_Q4_0, Type.Q4_0): Type.Q4_1,
    (gguf.LlamaFileType.MOSTLY_IQ4_NL, Type.Q5_K): Type.IQ4_NL,
}
"""Types of the first eighth of `ffn_down`: type of the file and of the weight without a matrix → type with one."""
_FIRST = 8


def importance(plain: api.Artifact, calibration: CalibrationSpec) -> dict[str, NDArray[np.float32]]:
    """Name of each tensor of a GGUF file → mean square of its input's channels over the calibration tokens."""
    loaded = load(plain.source)
    corpus, length = load_corpus(calibration.corpus), fitting(calibration.seq_len, loaded.model.config)
    windows = calibration_windows(loaded.tokenizer, corpus, calibration.num_samples, length, calibration.seed)
    relations = discover(loaded.model)
    found = FreshCalibration(loaded.model, windows, plain.quantized.dtype, Silent()).statistics(relations, {"range"})
    names = gguf.get_tensor_name_map(architecture_of(plain.quantized).graph, loaded.model.config.num_hidden_layers)
    return {
        f"{names.get_name(linear)}.weight": found[group.linears[0]].rms.square().numpy()
        for group in relations.groups
        for linear in group.linears
    }


def requantize(source: Path, without: Path, matrix: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Rewrite the file `without`, which was made from the float32 file `source`, with an importance matrix.

    Raises:
        RuntimeError: ggml's quantizer here rounds differently from the one that wrote `without`.
    """
    full = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    reader = gguf.GGUFReader(without)
    held = next(t for t in reader.tensors if t.name in matrix and t.tensor_type != Type.F32)
    if not np.array_equal(rounded(full[held.name].data, held.tensor_type, None), held.data):
        raise RuntimeError(
            f"xllamacpp's ggml rounds {held.name} differently from cyllama's; install builds of the same date"
        )
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, architecture)
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            value_type, *inner = field.types
            writer.add_key_value(field.name, field.contents(), value_type, sub_type=inner[-1] if inner else None)
    file_type = gguf.LlamaFileType(int(reader.fields["general.file_type"].contents()))
    layers = int(reader.fields[f"{architecture}.block_count"].contents())
    for tensor in reader.tensors:
        data, kind = tensor.data, Type(tensor.tensor_type)
        if tensor.name in matrix:
            layer = int(tensor.name.split(".")[1])
            if "ffn_down" in tensor.name and layer < layers // _FIRST:
                kind = PROMOTED.get((file_type, kind), kind)
            data = rounded(full[tensor.name].data, kind, matrix[tensor.name])
        writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(weight: NDArray[np.float32], kind: int, weights: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """Rows of a weight as bytes of a ggml type; `weights` are the columns' weights in the error."""
    import xllamacpp.xllamacpp as library

    ggml = ctypes.CDLL(library.__file__)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    values = np.ascontiguousarray(weight, dtype=np.float32)
    rows, columns = values.shape
    block, size = gguf.GGML_QUANT_SIZES[Type(kind)]
    found = np.zeros((rows, columns // block * size), np.uint8)
    counted = None if weights is None else np.ascontiguousarray(weights, dtype=np.float32)
    written = ggml.ggml_quantize_chunk(
        ctypes.c_int(kind),
        values.ctypes.data_as(ctypes.c_void_p),
        found.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(rows),
        ctypes.c_int64(columns),
        None if counted is None else counted.ctypes.data_as(ctypes.c_void_p),
    )
    if written != found.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {found.nbytes} in type {Type(kind).name}")
    return found
