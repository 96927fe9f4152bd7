"""GGUF files: dequantized by transformers into a plain float32 model, with what it leaves out put back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast
from unittest import mock

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from slmquant.boundary import guarded
from slmquant.errors import ModelError

_EXACT = frozenset({"F32", "F16", "BF16", "ALL_F32"})
"""File types that are no quantization grid."""


def file_type(path: Path) -> str:
    """The quantization of a GGUF file by its own name: `Q4_1`, `Q4_K_M`, `F16`, ...

    Raises:
        ModelError: The file is truncated or no GGUF.
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
    """True for a file type whose weights lie on a grid."""
    return file_type_name not in _EXACT


def read_gguf(path: Path, tokenizer_folder: Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a GGUF file as a transformers model (float32, tied weights tied) and its tokenizer.

    Args:
        path: The file.
        tokenizer_folder: A folder with `tokenizer.json` and `tokenizer_config.json` to use instead of the
            vocabulary in the file.

    Raises:
        ModelError: The file is truncated, or its architecture is not one that transformers reads.
    """
    _opened(path)
    folder, name = path.parent, path.name
    with guarded(lambda why: f"{name} cannot be read as a model: {why}"):
        with mock.patch.object(modeling_gguf_pytorch_utils, "tqdm", _without_bar):
            loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        if tokenizer_folder is None:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
            _restore_pre_tokenizer(tokenizer, path)
        else:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    return _plain(loaded), cast(PreTrainedTokenizerBase, tokenizer)


def _without_bar(tensors: Iterable[object], **_words: object) -> Iterable[object]:
    """Stands for the bar that transformers draws over a file's tensors, which knows no setting."""
    return tensors


def _opened(path: Path) -> gguf.GGUFReader:
    with guarded(lambda why: f"{path.name} is truncated or no GGUF file ({why}); fetch it again"):
        reader = gguf.GGUFReader(path)
        stop = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    if path.stat().st_size < stop:
        raise ModelError(f"{path.name} is truncated, {stop} bytes were expected; fetch it again")
    return reader


def _plain(loaded: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that has forgotten GGUF, which transformers would refuse to save."""
    config = loaded.config
    del config.quantization_config
    config._name_or_path = ""
    config.architectures = [type(loaded).__name__]
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    if loaded.generation_config is not None:
        model.generation_config = loaded.generation_config
    return cast(PreTrainedModel, model.train(False))


def _restore_pre_tokenizer(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Split digits one by one where the file says so.

    transformers gives every byte-level vocabulary GPT-2's splitting and ignores `tokenizer.ggml.pre`. SmolLM
    splits off each digit first; without that, spaces before a number are tokenized differently.
    """
    field = _opened(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
