"""Read a folder's `config.json`, and check it against the weight files before building a model."""

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
    """Layout and settings of a checkpoint of packed weights."""

    layout: PackedLayout
    settings: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Configuration:
    """A decoder-only model as described by its folder.

    Attributes:
        config: transformers' configuration, without entries about packed weights.
        tensors: The tensors in the weight files.
        packed: Layout of packed weights; None if the weights are plain numbers.
    """

    config: PreTrainedConfig
    tensors: Sequence[StoredTensor]
    packed: Packed | None

    def skeleton(self) -> PreTrainedModel:
        """The model on the meta device, without weights."""
        with torch.device("meta"):
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(self.config))


def read_configuration(folder: Path) -> Configuration:
    """Read the configuration of a decoder-only model, and check that its weights can be read safely.

    If the configuration ties head and embedding, but the files hold two different ones, the configuration is corrected.

    Raises:
        ModelError: `config.json` is missing, malformed, not of a decoder-only model, or does not match the weight
            files; or the weights are packed in an unsupported layout.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"{folder} has no config.json; expected a model in transformers' format")
    with reading(path, "a configuration"):
        raw = json.loads(path.read_bytes())
    if not isinstance(raw, dict):
        raise ModelError(f"{path} holds a {type(raw).__name__}, expected an object; fetch it again")
    _refuse_other_weights(folder, raw)
    with guarded(
        lambda why: (
            f"{path} is not a configuration that transformers supports (code in a model's folder is never run): {why}"
        )
    ):
        config = cast(PreTrainedConfig, AutoConfig.from_pretrained(_bounded(folder, raw), trust_remote_code=False))
    _refuse_other_models(folder, config)
    tensors = stored_tensors(folder)
    packed = _packed(folder, raw)
    if packed is None:
        _refuse_codes(folder, tensors)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    configuration = Configuration(config, tensors, packed)
    if getattr(config, "tie_word_embeddings", False) and _has_own_head(folder, configuration):
        config.tie_word_embeddings = False
    return configuration


def state_tie_(model: PreTrainedModel) -> None:
    """Correct a configuration that ties head and embedding if the model has two different ones."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and head is not None and head.get_parameter("weight") is not embedding.get_parameter("weight"):
        model.config.tie_word_embeddings = False


def _bounded(folder: Path, raw: Mapping[str, JsonValue]) -> Path:
    """Return `folder` after checking that it has at least one tensor for each layer.

    This bounds the size of the model that is built. (Architectures that are not decoder-only may have no weights here;
    they are refused later, by name.)
    """
    for key in _LAYER_KEYS:
        layers = raw.get(key)
        if isinstance(layers, int) and layers > 1 and layers > (count := len(stored_tensors(folder))):
            raise ModelError(
                f"{folder}/config.json says {key} = {layers}, but the weight files hold {count} tensors; "
                "expected at least one for each layer: fetch the model again"
            )
    return folder


def _refuse_other_weights(folder: Path, raw: Mapping[str, JsonValue]) -> None:
    """Refuse settings that make transformers load other files than the fingerprinted ones."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json), whose weights are added to another model; "
            "merge it into its model first (PEFT's merge_and_unload)"
        )
    if raw.get("transformers_weights") is not None:
        raise ModelError(
            f"{folder}/config.json names another weight file (transformers_weights = "
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
            f"{folder} is already quantized, with the unsupported method {method!r} (supported: {', '.join(LAYOUTS)}); "
            "give the full-precision model"
        )
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict) and group.get("input_activations"):
            raise ModelError(
                f"{folder} is already quantized and rounds activations ({layout.title}), which a full-precision model "
                "does not; give the model that it was made from"
            )
    return Packed(layout, copy.deepcopy(settings))


def _refuse_codes(folder: Path, tensors: Sequence[StoredTensor]) -> None:
    """Refuse integer or FP8 codes without a `quantization_config`: they would be taken for the weights."""
    codes = [t for t in tensors if t.dtype not in _REAL and (t.name.endswith(".weight") or t.dtype.startswith("F"))]
    if codes:
        raise ModelError(
            f"{folder} holds {len(codes)} weights as {codes[0].dtype}, the first {codes[0].name}, but its config.json "
            "has no quantization_config that explains them; fetch the folder again, or its original"
        )


def _has_own_head(folder: Path, configuration: Configuration) -> bool:
    """Whether the files hold a head that differs from the embedding."""
    del folder
    with guarded(lambda why: f"no {configuration.config.model_type} can be built from config.json: {why}"):
        tied = getattr(configuration.skeleton(), "_tied_weights_keys", None) or {}
    pairs = tied.items() if isinstance(tied, dict) else ()
    for target, source in pairs:
        head, embedding = _stored(configuration.tensors, target), _stored(configuration.tensors, source)
        if head is not None and embedding is not None and not _same(head, embedding):
            return True
    return False


def _stored(tensors: Sequence[StoredTensor], name: str) -> StoredTensor | None:
    """The stored tensor of a parameter; its name may lack the prefix of the model's body."""
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
