"""GGUF: one file with weights, tokenizer and chat template, for llama.cpp and everything built on it.

Codes are packed unchanged into ggml's blocks (`formats.gguf.blocks`). Weights that the scheme leaves in 16 bits are
stored in float16, or in bfloat16 if a value would overflow; gains and biases in float32. A tied embedding is stored
once. Besides llama.cpp's keys, a file has keys `slmquant.*`: the method, the scheme, the source and its fingerprint.

llama.cpp always rounds activations to 8 bits in blocks of 32 before multiplying them with integer codes, and to float16
before float16 weights. A scheme that rounds activations is refused, because the file would compute something other than
what was evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slmquant.artifact import Artifact
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import UnknownNameError
from slmquant.formats.common.contract import Placement, ends_of_text
from slmquant.formats.common.writing import BaseFormat, Laid
from slmquant.formats.gguf.blocks import encode, fit
from slmquant.formats.gguf.parameters import Parameter, architecture_of, parameters_of, refusal_of
from slmquant.formats.gguf.proof import prove
from slmquant.formats.gguf.reader import MODEL_TYPE_KEY, MODULES_KEY, context_length, read_weights
from slmquant.formats.gguf.super_blocks import BLOCK
from slmquant.formats.gguf.tokenizer import add_tokenizer_
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.gguf.metadata import keys_of, rope_of
from slmquant.schemes.mixtures import MIXTURES

Dense = Literal["F32", "F16", "BF16"]
_LARGEST_HALF = torch.finfo(torch.float16).max
_OTHERWISE = ("F16", "BF16", "F32", "Q8_0")
_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "Q3_K": gguf.LlamaFileType.MOSTLY_Q3_K_S,
    "Q4_K": gguf.LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": gguf.LlamaFileType.MOSTLY_Q5_K_S,
    "MXFP4": gguf.LlamaFileType.MOSTLY_MXFP4_MOE,
}
"""`general.file_type` by the type of most weights; for other types it is `MOSTLY_` and the type's name."""


@dataclass(frozen=True)
class Gguf(BaseFormat[Parameter]):
    """The format.

    Attributes:
        dense: Type of weights that the scheme leaves in 16 bits; F32 gives a file for comparisons.
        any_tokenization: Whether to write a file that llama.cpp tokenizes differently, with a remark.
    """

    dense: Dense = "F16"
    any_tokenization: bool = False
    name = "gguf"
    title = "GGUF"
    summary = "One file with weights, tokenizer and chat template, for llama.cpp and software built on it."
    suffix = ".gguf"
    extra: str | None = None

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Why llama.cpp would not compute the same model; None if it does."""
        return refusal_of(quantized)

    def lay_out(self, quantized: QuantizedModel, otherwise: str | None) -> list[Laid[Parameter]]:
        """The parameters and their placements; `otherwise` is one of f16, bf16, f32 and q8_0 (nearest rounding).

        Raises:
            UnknownNameError: `otherwise` is not one of these types.
        """
        substitute = _substitute(otherwise)
        return [Laid(self._place(parameter, substitute), parameter) for parameter in parameters_of(quantized)]

    def save(self, artifact: Artifact, laid: Sequence[Laid[Parameter]], path: Path) -> tuple[str, ...]:
        """Write the file, and compare llama.cpp's tokens with the tokenizer's.

        Raises:
            RefusedError: llama.cpp lacks the tokenizer, or tokenizes text differently.
        """
        quantized = artifact.quantized
        writer = gguf.GGUFWriter(path, architecture_of(quantized).name)
        remarks = _add_keys_(writer, artifact, [one.placement for one in laid])
        for one in laid:
            _add_tensor_(writer, one.content, one.placement.stored_as)
        writer.add_array(MODULES_KEY, [f"{one.content.target}={one.content.name}" for one in laid])
        rope = rope_of(quantized.model.config)
        if rope is not None and rope.divisors is not None:
            writer.add_tensor("rope_freqs.weight", rope.divisors.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        rows = int(cast(Tensor, quantized.model.get_input_embeddings().weight).shape[0])
        return remarks + prove(path, artifact.tokenizer, rows, self.any_tokenization)

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Module name → float32 weight, as llama.cpp computes with it, rows in the model's order.

        Raises:
            ModelError: The file is truncated, damaged, of an unknown version, or was not made by slmquant.
        """
        return read_weights(path)

    def context_limit(self, path: Path) -> int | None:
        """Tokens of context stated in the file's metadata.

        Raises:
            ModelError: The file is damaged.
        """
        return context_length(path) if path.suffix == self.suffix else None

    def _place(self, parameter: Parameter, substitute: str | None) -> Placement:
        weight, rows = parameter.weight, parameter.shape
        if isinstance(weight, QuantizedTensor):
            requested, fitted = _described(weight), fit(weight)
            stored, reason, exact = fitted.type, fitted.reason, True
            if stored is None:
                stored = substitute or "F16"
                if stored == "Q8_0" and rows[-1] % BLOCK:
                    stored, reason = "F16", f"{reason}; Q8_0 needs rows of a multiple of {BLOCK}"
                exact = stored == "F32"
        else:
            requested, reason, exact = "16 bits", None, True
            stored = "F32" if weight.ndim == 1 else self.dense
        if stored == "F16" and float(parameter.dense().abs().max()) > _LARGEST_HALF:
            stored = "BF16"
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[stored]]
        count = int(np.prod(rows))
        return Placement(parameter.name, requested, stored, count, count // elements * size, exact, reason)


def _substitute(otherwise: str | None) -> str | None:
    if otherwise is not None and otherwise.upper() not in _OTHERWISE:
        raise UnknownNameError("GGUF type", otherwise, (name.lower() for name in _OTHERWISE))
    return None if otherwise is None else otherwise.upper()


def _described(weight: QuantizedTensor) -> str:
    """`integers -8..7, groups of 32`."""
    each = "one scale" if weight.grid.per_tensor else "one scale for each row"
    if not weight.grid.per_tensor and weight.scale.shape[1] > 1:
        each = f"groups of {weight.group_size}"
    return f"{weight.grid.elements.name}, {each}" + (", zero points" if weight.zero_point is not None else "")


def _add_tensor_(writer: gguf.GGUFWriter, parameter: Parameter, stored: str) -> None:
    kind = gguf.GGMLQuantizationType[stored]
    if isinstance(parameter.weight, QuantizedTensor) and stored == fit(parameter.weight).type:
        data: NDArray[np.generic] = encode(parameter.weight, stored)
    else:
        data = _rounded(parameter.dense(), kind)
    if parameter.order is not None:
        data = data[parameter.order.numpy()]
    writer.add_tensor(parameter.target, np.ascontiguousarray(data), raw_dtype=kind)


def _rounded(dense: Tensor, kind: gguf.GGMLQuantizationType) -> NDArray[np.generic]:
    """Round floats to a type; bfloat16 as bytes."""
    if kind == gguf.GGMLQuantizationType.F32:
        return dense.numpy()
    if kind == gguf.GGMLQuantizationType.F16:
        return dense.half().numpy()
    if kind == gguf.GGMLQuantizationType.BF16:
        return dense.bfloat16().contiguous().view(torch.uint8).numpy()
    blocks: NDArray[np.generic] = gguf.quants.quantize(dense.numpy(), kind)
    return blocks


def _add_keys_(writer: gguf.GGUFWriter, artifact: Artifact, placements: Sequence[Placement]) -> tuple[str, ...]:
    from slmquant._version import __version__

    quantized, config = artifact.quantized, artifact.quantized.model.config
    writer.add_type("model")
    writer.add_name(Path(artifact.source).name.removesuffix(".gguf"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(_file_type(quantized, placements))
    for end, value in keys_of(config):
        key = f"{architecture_of(quantized).name}.{end}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    for key, text in _provenance(artifact):
        writer.add_string(key, text)
    writer.add_string("slmquant.version", __version__)
    embedding = cast(Tensor, quantized.model.get_input_embeddings().weight)
    return add_tokenizer_(writer, artifact.tokenizer, embedding.shape[0], ends_of_text(quantized))


def _provenance(artifact: Artifact) -> Iterator[tuple[str, str]]:
    yield MODEL_TYPE_KEY, artifact.quantized.model.config.model_type
    yield "slmquant.method", artifact.quantized.method
    yield "slmquant.scheme", str(artifact.quantized.scheme)
    if (types := artifact.quantized.scheme.listed) is not None:
        yield "slmquant.mixture", json.dumps(types)
    yield "slmquant.source", artifact.public_source
    yield "slmquant.source_sha256", artifact.source_sha256


def _file_type(quantized: QuantizedModel, placements: Sequence[Placement]) -> gguf.LlamaFileType:
    """The mixture if llama.cpp has it, else the type of most weights."""
    mixture = quantized.scheme.mixture
    if mixture is not None and MIXTURES[mixture].of_llama_cpp:
        return gguf.LlamaFileType[f"MOSTLY_{mixture}"]
    elements: dict[str, int] = {}
    for placement in placements:
        elements[placement.stored_as] = elements.get(placement.stored_as, 0) + placement.parameters
    most = max(elements, key=lambda name: elements[name])
    return _FILE_TYPES[most] if most in _FILE_TYPES else gguf.LlamaFileType[f"MOSTLY_{most}"]


FORMAT = Gguf()
