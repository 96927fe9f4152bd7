"""Load a full-precision model: checked, fingerprinted, with a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slmquant.boundary import guarded, reading
from slmquant.errors import ModelError, RefusedError
from slmquant.model.compatibility.quiet import quiet_transformers
from slmquant.model.size import count_parameters
from slmquant.model.sources.configuration import Configuration, Packed, read_configuration, state_tie_
from slmquant.model.sources.fingerprint import fingerprint
from slmquant.model.sources.packed_layouts import of_module
from slmquant.model.sources.provenance import read_provenance
from slmquant.model.sources.resolve import licence_of, resolve
from slmquant.model.sources.token_rows import refuse_beyond_, remarks_of
from slmquant.progress import Progress
from slmquant.store.record import ModelCard

_GENERATION = "generation_config.json"
_REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


_TRIED_TEXT, _TRIED_TOKENS = "A first sentence, 12 of 345.\n é 日本", 4


@dataclass(frozen=True)
class LoadedModel:
    """A full-precision model, ready to be quantized or evaluated.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        sha256: Fingerprint of the stored weights, independent of the loaded dtype.
        card: Facts about the model.
        folder: Folder it was loaded from, in transformers' format.
        remarks: Sentences for the user, shown with the row.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    card: ModelCard
    folder: Path
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """Fingerprint, card and folder of a model, without loading its weights."""

    sha256: str
    card: ModelCard
    folder: Path


def load(
    source: str,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    mapped: bool = True,
) -> LoadedModel:
    """Load the model that `source` names (see `sources.resolve`).

    Args:
        source: A known name, a folder, a GGUF file or a hub id.
        dtype: Dtype of the loaded weights.
        device: Device of the loaded weights.
        progress: Receives progress updates of a download or a conversion.
        mapped: Whether weights may stay in the memory-mapped file. Mapping needs no additional memory, but the whole
            file counts as resident until its last weight is freed; a model whose weights are replaced one by one needs
            less memory without it.

    Raises:
        UnknownNameError: `source` is unknown.
        SourceError: The source is known but not on this machine, and cannot be fetched.
        ModelError: The model is not decoder-only, pickled, truncated, damaged, packed in an unsupported layout, or has
            weights that are not finite, or tensors that its configuration does not explain.
        RefusedError: The device is not available.
    """
    check_device(device)
    identity, configuration = _identified(resolve(source, progress))
    folder = identity.folder
    tokenizer = _tokenizer(folder)
    model = _weights(folder, configuration, dtype)
    if not mapped:
        unmap_(model)
    _check_finite(model)
    torch.nn.Module.to(model, device)  # transformers' own `to` is typed for one argument less
    refuse_beyond_(model, tokenizer)
    remarks = remarks_of(model, tokenizer)
    _check_runs(folder, model.train(False))
    return LoadedModel(model, tokenizer, identity.sha256, identity.card, folder, remarks)


def check_device(device: str | torch.device) -> None:
    """Check that torch can compute on a device.

    Raises:
        RefusedError: This torch does not support the device, or the machine has none.
    """
    with guarded(lambda why: f"device {str(device)!r} is not available: {why.rstrip('.')}; use cpu", RefusedError):
        torch.empty(0, device=device)


def unmap_(model: PreTrainedModel) -> None:
    """Give every parameter memory of its own."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


@dataclass(frozen=True)
class Settings:
    """What a source says of its model beside the weights."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase


def read_settings(source: str, progress: Progress | None = None) -> Settings:
    """Configuration and tokenizer of the model that `source` names; no weights are loaded.

    Raises:
        UnknownNameError, SourceError, ModelError: As for `load`, as far as it shows without the weights.
    """
    identity, configuration = _identified(resolve(source, progress))
    return Settings(configuration.config, _tokenizer(identity.folder))


def identify(source: str, progress: Progress | None = None) -> Identity:
    """Fingerprint and card of the model that `source` names, without loading its weights.

    Raises:
        UnknownNameError, SourceError, ModelError: As for `load`, except errors in the weights.
    """
    return _identified(resolve(source, progress))[0]


def _identified(folder: Path) -> tuple[Identity, Configuration]:
    configuration = read_configuration(folder)
    sha256 = fingerprint(folder)
    provenance = read_provenance(folder)
    if provenance is not None and provenance.weights_sha256 != sha256:
        raise ModelError(
            f"the weights in {folder} have fingerprint {sha256[:16]}, not "
            f"{provenance.weights_sha256[:16]} as written; delete the folder and pull or convert the model again"
        )
    description = "original" if provenance is None else provenance.description
    if configuration.packed is not None:
        description = f"dequantized from {configuration.packed.layout.title}, on-grid"
    licence = licence_of(folder) if provenance is None else provenance.licence
    return Identity(sha256, _card(folder, configuration, description, licence), folder), configuration


def _card(folder: Path, configuration: Configuration, provenance: str, licence: str | None) -> ModelCard:
    with guarded(lambda why: f"{folder}: no {configuration.config.model_type} can be built from config.json: {why}"):
        skeleton = configuration.skeleton()
    parameters = count_parameters(skeleton)
    modules = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    ends = {module.get_parameter("weight") for module in modules if module is not None}  # one if they are tied
    return ModelCard(
        architecture=configuration.config.model_type,
        parameters=parameters,
        embedding_share=sum(weight.numel() for weight in ends) / parameters,
        provenance=provenance,
        licence=licence,
    )


def _weights(folder: Path, configuration: Configuration, dtype: torch.dtype) -> PreTrainedModel:
    config = configuration.config
    with guarded(lambda why: f"{folder} cannot be loaded: {why}"), quiet_transformers():
        if configuration.packed is None:
            loaded: object = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        else:
            state = _unpacked(folder, configuration, configuration.packed)
            kind = cast(type[PreTrainedModel], AutoModelForCausalLM._model_mapping[type(config)])
            loaded = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    model, remarks = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    if remarks["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(remarks["missing_keys"])
        raise ModelError(f"{folder} lacks {len(missing)} weights, the first {missing[0]}; fetch it again")
    if remarks["unexpected_keys"]:  # it would drop them
        left = sorted(remarks["unexpected_keys"])
        raise ModelError(
            f"{folder} holds {len(left)} tensors that the {config.model_type} in its config.json does not have, the "
            f"first {left[0]}; correct config.json (layers, biases, norms), or fetch the model again"
        )
    if configuration.packed is not None and (folder / _GENERATION).exists():
        with reading(folder / _GENERATION, "generation settings"):
            model.generation_config = GenerationConfig.from_pretrained(folder)
    state_tie_(model)
    return model


def _unpacked(folder: Path, configuration: Configuration, packed: Packed) -> dict[str, torch.Tensor]:
    """State dict of a packed checkpoint with dequantized weights; other tensors are unchanged."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for file in sorted({tensor.file for tensor in configuration.tensors}):
        for name, tensor in load_file(file).items():
            module, _, part = name.rpartition(".")
            modules.setdefault(module, {})[part] = tensor
    state: dict[str, torch.Tensor] = {}
    for module, parts in modules.items():
        if packed.layout.packs(parts):
            with reading(folder / module, f"{packed.layout.title} codes"):
                state[f"{module}.weight"] = packed.layout.decode(of_module(packed.settings, module), parts)
            parts = {part: tensor for part, tensor in parts.items() if part not in packed.layout.parts}
        state |= {f"{module}.{part}" if module else part: tensor for part, tensor in parts.items()}
    codes = [name for name, tensor in state.items() if name.endswith(".weight") and tensor.dtype not in _REAL]
    if codes:
        raise ModelError(f"{folder}: {codes[0]} holds codes that quantization_config does not explain; fetch it again")
    return state


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    message = "put its tokenizer.json and tokenizer_config.json there"
    with guarded(lambda why: f"{folder} has no tokenizer that transformers can read ({why}); {message}"):
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        torch.tensor(
            tokenizer(_TRIED_TEXT, verbose=False)["input_ids"], dtype=torch.long
        )  # some tokenizers fail only when used
        return tokenizer


@torch.inference_mode()
def _check_runs(folder: Path, model: PreTrainedModel) -> None:
    """Run a short forward pass, which finds configurations that load but cannot run."""
    tried = torch.arange(
        min(_TRIED_TOKENS, int(model.get_input_embeddings().get_parameter("weight").shape[0])), device=model.device
    )
    with guarded(lambda why: f"{folder} loads but cannot run ({why}); correct its config.json, or fetch it again"):
        model(tried[None])


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise ModelError(
                f"{bad} of {parameter.numel()} weights of {name} are not finite in {parameter.dtype}; "
                "fetch the model again, or load it in float32"
            )
