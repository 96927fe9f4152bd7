"""Bytes of a GGUF file, to 31: of each tensor in each type, and of everything else in it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf

from slmquant.artifact import Artifact
from slmquant.formats.gguf.writer import FORMAT
from slmquant.model.computing.grids import zeros
from slmquant.model.running.trial import stored_weight
from slmquant.schemes import Scheme, parse


def tensor_bytes(kind: str, elements: int) -> int:
    """Bytes of a tensor in a file, with the padding behind it and its name in the list of types."""
    per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return _padded(elements // per_block * size) + len(kind)


def other_bytes(artifact: Artifact, elements: Mapping[str, int], method: str = "rtn") -> int:
    """Most bytes of a file beside the named weights, whatever their types: keys, tokenizer, norms.

    A file with zeros for these weights is written to a scratch folder and measured. Files are up to 31 bytes smaller,
    as the keys are padded.

    Args:
        artifact: The full-precision model.
        elements: Weight → its number of elements: every weight that a mixture gives a type.
        method: The method that the file will name.

    Raises:
        RefusedError: GGUF does not hold the model.
    """
    quantized, spec = artifact.quantized, parse("Q8_0").weights
    assert spec is not None  # noqa: S101  # for the type checker
    weights = {name: zeros(spec, *stored_weight(quantized.model, name).shape) for name in elements}
    rounded = replace(quantized, method=method, scheme=Scheme.of_table(dict.fromkeys(elements, spec)), weights=weights)
    with tempfile.TemporaryDirectory(prefix="slmquant-") as scratch:
        path = Path(scratch) / "model.gguf"
        FORMAT.write(replace(artifact, quantized=rounded), path)
        size = path.stat().st_size
    return size - sum(tensor_bytes("Q8_0", count) for count in elements.values()) + gguf.GGUF_DEFAULT_ALIGNMENT - 1


def _padded(size: int) -> int:
    alignment = gguf.GGUF_DEFAULT_ALIGNMENT
    return -(-size // alignment) * alignment
