"""A model in hand: checked, fingerprinted, with a card that says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slmquant.boundary import guarded
from slmquant.errors import ModelError, RefusedError
from slmquant.model.fingerprint import fingerprint, safetensors_files
from slmquant.model.provenance import read_provenance
from slmquant.model.quiet import quiet_transformers
from slmquant.model.size import count_parameters
from slmquant.model.sources import licence_of, resolve
from slmquant.progress import Progress
from slmquant.store.record import ModelCard

_DECODER_SUFFIXES = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class LoadedModel:
    """A full-precision model, ready to be quantized or asked.

    Attributes:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        sha256: Fingerprint of the weights as they are stored, whatever dtype they were loaded in.
        card: What is known of it.
        folder: Where it was loaded from, in transformers' form.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    card: ModelCard
    folder: Path


@dataclass(frozen=True)
class Identity:
    """What is known of a model without loading its weights."""

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
        dtype: What to load the weights in.
        device: Where to put them.
        progress: Who is told of a download or a conversion.
        mapped: Whether weights may stay in the mapped file that they came from. That takes no memory of its own, but
            the whole file counts as resident until the last of its weights is let go of; a model whose weights are
            replaced one after the other needs less without.

    Raises:
        UnknownNameError: `source` names nothing.
        SourceError: It names something that is not here and cannot be had.
        ModelError: It is not decoder-only, pickled, truncated, damaged, or has weights that are not finite.
        RefusedError: The device is not here.
    """
    check_device(device)
    identity = identify(source, progress)
    folder = identity.folder
    tokenizer = _tokenizer(folder)
    model = _weights(folder, dtype)
    if not mapped:
        let_go_of_file_(model)
    _check_finite(model)
    torch.nn.Module.to(model, device)  # transformers' own `to` is typed for one argument less
    return LoadedModel(model.train(False), tokenizer, identity.sha256, identity.card, folder)


def check_device(device: str | torch.device) -> None:
    """Refuse a device that cannot be computed on.

    Raises:
        RefusedError: This torch does not know it, or the machine has none.
    """
    with guarded(lambda why: f"device {str(device)!r} cannot be used here: {why.rstrip('.')}; use cpu", RefusedError):
        torch.empty(0, device=device)


def let_go_of_file_(model: PreTrainedModel) -> None:
    """Give every parameter memory of its own."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def identify(source: str, progress: Progress | None = None) -> Identity:
    """Fingerprint and card of the model that `source` names; no weights are loaded.

    Raises:
        UnknownNameError, SourceError, ModelError: As for `load`, as far as it shows without the weights.
    """
    folder = resolve(source, progress)
    config = _config(folder)
    sha256 = fingerprint(folder)
    provenance = read_provenance(folder)
    if provenance is not None and provenance.weights_sha256 != sha256:
        raise ModelError(
            f"the weights in {folder} have fingerprint {sha256[:16]}, not "
            f"{provenance.weights_sha256[:16]} as written; delete it and pull or convert the model again"
        )
    description = "original" if provenance is None else provenance.description
    licence = licence_of(folder) if provenance is None else provenance.licence
    return Identity(sha256, _card(config, description, licence), folder)


def _card(config: PreTrainedConfig, provenance: str, licence: str | None) -> ModelCard:
    impossible = f"the config.json of this {config.model_type} describes no model that can be built: "
    with guarded(lambda why: impossible + why), torch.device("meta"):  # shapes without numbers
        skeleton = AutoModelForCausalLM.from_config(config)
    parameters = count_parameters(skeleton)
    modules = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    ends = {module.weight for module in modules if module is not None}  # one where they are tied
    return ModelCard(
        architecture=config.model_type,
        parameters=parameters,
        embedding_share=sum(weight.numel() for weight in ends) / parameters,
        provenance=provenance,
        licence=licence,
    )


def _config(folder: Path) -> PreTrainedConfig:
    """The config of a decoder-only model whose weights are safe to read."""
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json; expected a model in transformers' form")
    unknown = f"{folder}/config.json is not one that transformers knows, and code beside a model is never run: "
    with guarded(lambda why: unknown + why):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    architectures = config.architectures or []
    decoder = any(name.endswith(_DECODER_SUFFIXES) for name in architectures) if architectures else True
    if config.is_encoder_decoder or not decoder or type(config) not in AutoModelForCausalLM._model_mapping:
        name = architectures[0] if architectures else config.model_type
        raise ModelError(f"{name} in {folder} is not a decoder-only language model; expected a ...ForCausalLM")
    safetensors_files(folder)
    return cast(PreTrainedConfig, config)


def _weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    with guarded(lambda why: f"{folder} cannot be loaded: {why}"), quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, remarks = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    if remarks["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(remarks["missing_keys"])
        raise ModelError(f"{folder} lacks {len(missing)} weights, the first {missing[0]}; fetch it again")
    return model


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    unreadable = guarded(
        lambda why: (
            f"{folder} has no tokenizer that transformers can read ({why}); "
            "put its tokenizer.json and tokenizer_config.json there"
        )
    )
    with unreadable:
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise ModelError(
                f"{name} has {bad} of {parameter.numel()} weights that are not finite in {parameter.dtype}; "
                "expected numbers: fetch the model again, or load it in float32"
            )
