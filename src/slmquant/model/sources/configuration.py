"""What a folder's `config.json` says, held against its weight files before anything is built from it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import JsonValue
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from slmquant.boundary import guarded, reading
from slmquant.errors import ModelError
from slmquant.model.sources.fingerprint import StoredTensor, stored_tensors
from slmquant.model.sources.packed_layouts import LAYOUTS, PackedLayout

_DECODER_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_REAL = frozenset({"F64", "F32", "F16", "BF16"})
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Packed:
    """How a checkpoint of packed weights is read."""

    layout: PackedLayout
    settings: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Configuration:
    """A decoder-only model as its folder describes it.

    Attributes:
        config: transformers' configuration; of packed weights it says nothing.
        tensors: What the weight files hold.
        packed: How packed weights are read; None where they are plain numbers.
    """

    config: PreTrainedConfig
    tensors: Sequence[StoredTensor]
    packed: Packed | None

    def skeleton(self) -> PreTrainedModel:
        """The model without numbers."""
        with torch.device("meta"):
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(self.config))


def read_configuration(folder: Path) -> Configuration:
    """The configuration of a decoder-only model whose weights are safe to read.

    A configuration that calls head and embedding tied, beside files that hold two different ones, is corrected.

    Raises:
        ModelError: There is no `config.json`; it is malformed, not of a decoder-only model, or does not belong to the
            weight files; or the weights are packed in a layout that is not read.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"{folder} has no config.json; expected a model in transformers' form")
    with reading(path, "a configuration"):
        raw = json.loads(path.read_bytes())
    if not isinstance(raw, dict):
        raise ModelError(f"{path} holds a {type(raw).__name__}, expected an object; fetch it again")
    _refuse_other_weights(folder, raw)
    with guarded(lambda why: f"{path} is not one that transformers knows, and code beside a model is never run: {why}"):
        config = cast(PreTrainedConfig, AutoConfig.from_pretrained(_bounded(folder, raw), trust_remote_code=False))
    _refuse_other_models(folder, config)
    tensors = stored_tensors(folder)
    packed = _packed(folder, raw)
    if packed is None:
        _refuse_codes(folder, tensors)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    found = Configuration(config, tensors, packed)
    if getattr(config, "tie_word_embeddings", False) and _has_own_head(folder, found):
        config.tie_word_embeddings = False
    return found


def state_tie_(model: PreTrainedModel) -> None:
    """Make a configuration that calls head and embedding tied say what the model has, where it has two."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and head is not None and head.get_parameter("weight") is not embedding.get_parameter("weight"):
        model.config.tie_word_embeddings = False


def _bounded(folder: Path, raw: Mapping[str, JsonValue]) -> Path:
    """`folder`, whose layers are no more than tensors that it holds: each has one at least.

    Architectures that are not decoder-only, which are refused by name, may have no weights here.
    """
    for key in _LAYER_KEYS:
        layers = raw.get(key)
        if isinstance(layers, int) and layers > 1 and layers > (count := len(stored_tensors(folder))):
            raise ModelError(
                f"{folder}/config.json says {key} = {layers}, and the weight files hold {count} tensors; "
                "expected one for each layer at least: fetch the model again"
            )
    return folder


def _refuse_other_weights(folder: Path, raw: Mapping[str, JsonValue]) -> None:
    """What would make transformers load other files than those that are fingerprinted."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json), whose numbers are added to another model's; "
            "merge it into its model first (merge_and_unload of PEFT)"
        )
    if raw.get("transformers_weights") is not None:
        raise ModelError(
            f"{folder}/config.json names a weight file of its own (transformers_weights = "
            f"{raw['transformers_weights']!r}); rename that file to model.safetensors and delete the entry"
        )


def _refuse_other_models(folder: Path, config: PreTrainedConfig) -> None:
    architectures = config.architectures or []
    decoder = any(name.endswith(_DECODER_SUFFIXES) for name in architectures) if architectures else True
    if config.is_encoder_decoder or not decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        name = architectures[0] if architectures else config.model_type
        raise ModelError(f"{name} in {folder} is not a decoder-only language model; expected a ...ForCausalLM")


def _packed(folder: Path, raw: Mapping[str, JsonValue]) -> Packed | None:
    settings = raw.get("quantization_config", raw.get("compression_config"))
    if not settings:
        return None
    if not isinstance(settings, dict):
        raise ModelError(
            f"{folder}/config.json: quantization_config is a {type(settings).__name__}, expected an object"
        )
    method = settings.get("quant_method")
    layout = LAYOUTS.get(str(method))
    if layout is None:
        raise ModelError(
            f"{folder} is quantized already, by {method!r}, which is not read here ({', '.join(LAYOUTS)} are); "
            "give the full-precision model"
        )
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict) and group.get("input_activations"):
            raise ModelError(
                f"{folder} is quantized already and rounds activations ({layout.title}), which a full-precision "
                "model does not; give the model that it was made from"
            )
    return Packed(layout, copy.deepcopy(settings))


def _refuse_codes(folder: Path, tensors: Sequence[StoredTensor]) -> None:
    """Codes of quantized weights without a word on how they are read would be taken for the weights."""
    codes = [t for t in tensors if t.dtype not in _REAL and (t.name.endswith(".weight") or t.dtype.startswith("F"))]
    if codes:
        raise ModelError(
            f"{folder} holds {len(codes)} weights as {codes[0].dtype}, the first {codes[0].name}, and its config.json "
            "has no quantization_config that says how they are read; fetch the folder again, or its original"
        )


def _has_own_head(folder: Path, found: Configuration) -> bool:
    """Whether the files hold a head and an embedding of different numbers."""
    del folder
    with guarded(lambda why: f"no {found.config.model_type} can be built from config.json: {why}"):
        tied = getattr(found.skeleton(), "_tied_weights_keys", None) or {}
    pairs = tied.items() if isinstance(tied, dict) else ()
    for target, source in pairs:
        head, embedding = _stored(found.tensors, target), _stored(found.tensors, source)
        if head is not None and embedding is not None and not _same(head, embedding):
            return True
    return False


def _stored(tensors: Sequence[StoredTensor], name: str) -> StoredTensor | None:
    """The tensor of a parameter, whose name may lack the prefix of the body."""
    return next((t for t in tensors if name == t.name or name.endswith(f".{t.name}")), None)


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.dtype, one.shape, one.stop - one.start) != (other.dtype, other.shape, other.stop - other.start):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        for start in range(one.start, one.stop, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, one.stop - start)
            if first.read(size) != second.read(size):
                return False
    return True
