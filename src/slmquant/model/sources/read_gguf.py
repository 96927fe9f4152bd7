"""Read a GGUF file as a float32 transformers model: its keys, all tensors, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from slmquant.boundary import guarded
from slmquant.errors import ModelError
from slmquant.model.gguf.architectures import ARCHITECTURES
from slmquant.model.gguf.configuration import configuration_of
from slmquant.model.gguf.metadata import order_of
from slmquant.model.gguf.vocabulary import tokenizer_of

_FREQUENCIES = "rope_freqs.weight"
_EXACT = frozenset({"F32", "F16", "BF16", "ALL_F32"})
"""File types without quantization."""


def file_type(path: Path) -> str:
    """The file type (quantization) of a GGUF file: `Q4_1`, `Q4_K_M`, `F16`, ...

    Raises:
        ModelError: The file is truncated, or not a GGUF file.
    """
    reader = _opened(path)
    with guarded(lambda why: f"{path.name} does not say how it is quantized ({why}); fetch it again"):
        field = reader.get_field("general.file_type")
        if field is not None:
            return gguf.LlamaFileType(field.contents()).name.removeprefix("MOSTLY_")
        elements: dict[str, int] = {}
        for tensor in reader.tensors:
            elements[tensor.tensor_type.name] = elements.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
        return max(elements, key=lambda name: elements[name])


def is_quantized(file_type_name: str) -> bool:
    """Whether weights of this file type lie on a quantization grid."""
    return file_type_name not in _EXACT


def read_gguf(path: Path, tokenizer_folder: Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a GGUF file as a transformers model (float32, tied weights tied) and its tokenizer.

    Every tensor of the file must be a parameter of the model, and every parameter must be in the file.

    Args:
        path: The file.
        tokenizer_folder: A folder with `tokenizer.json` and `tokenizer_config.json` to use instead of the
            vocabulary in the file.

    Raises:
        ModelError: The file is truncated, or has an unsupported architecture, key, tensor or tokenizer.
    """
    reader = _opened(path)
    with guarded(lambda why: f"{path.name} cannot be read as a model: {why}"), _named(path):
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        model = _model(reader, fields)
        if tokenizer_folder is None:
            tokenizer: PreTrainedTokenizerBase = tokenizer_of(fields)
            tokenizer.model_max_length = model.config.max_position_embeddings
        else:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    return model, tokenizer


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file name to errors."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path.name} cannot be read as a model: {error}") from error


def _model(reader: gguf.GGUFReader, fields: Mapping[str, object]) -> PreTrainedModel:
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    freqs = _numbers(tensors.pop(_FREQUENCIES)) if _FREQUENCIES in tensors else None
    config = configuration_of(fields, shapes, freqs)
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture.graph, config.num_hidden_layers)
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    with torch.no_grad():
        for full, parameter in model.named_parameters():  # tied parameters come once
            module, _, kind = full.rpartition(".")
            target = f"{names.get_name(module)}.{kind}"
            if target not in tensors:
                raise ModelError(f"it lacks {target} ({full} of {config.model_type}); fetch it again")
            values = _numbers(tensors.pop(target))
            if (order := order_of(config, module, values.shape[0])) is not None:
                values = torch.empty_like(values).index_copy(0, order, values)
            if isinstance(model.get_submodule(module), Conv1D) and kind == "weight":
                values = values.T
            elif kind == "weight" and values.ndim == 1:
                values = values - architecture.gain_offset
            if values.shape != parameter.shape:
                raise ModelError(f"{target} has shape {tuple(values.shape)}, expected {tuple(parameter.shape)}")
            parameter.copy_(values)
    if tensors:
        raise ModelError(
            f"it holds {len(tensors)} tensors that {config.model_type} does not have, the first {min(tensors)}; "
            "use the model in safetensors format"
        )
    ends = [fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    stated = list(dict.fromkeys(id_ for id_ in ends if isinstance(id_, int)))
    if model.generation_config is not None and len(stated) > 1:
        model.generation_config.eos_token_id = stated
    config.architectures = [type(model).__name__]
    return cast(PreTrainedModel, model.train(False))


def _numbers(tensor: gguf.ReaderTensor) -> Tensor:
    numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(numbers, dtype=np.float32))


def _opened(path: Path) -> gguf.GGUFReader:
    with guarded(lambda why: f"{path.name} is truncated or not a GGUF file ({why}); fetch it again"):
        reader = gguf.GGUFReader(path)
        stop = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    if path.stat().st_size < stop:
        raise ModelError(f"{path.name} is truncated ({path.stat().st_size} bytes, expected {stop}); fetch it again")
    return reader
