"""slmquant's own format: a `QuantizedModel` stored exactly, in safetensors.

A folder with transformers' config and tokenizer, `model.safetensors` and `slmquant.json`. `formats.native.weights`
describes how a quantized weight is stored; every other parameter is stored under its own name in bfloat16, a tied one
once.

Use this format to keep and compare models; only slmquant's torch reference reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slmquant.artifact import Artifact
from slmquant.boundary import guarded
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import ModelError, UnknownNameError
from slmquant.files import atomic_dir, folder_bytes
from slmquant.formats.common.contract import Placement, Written
from slmquant.formats.common.entries import as_stored, describe, entries
from slmquant.formats.native.manifest import MANIFEST as MANIFEST
from slmquant.formats.native.manifest import Manifest, read, write
from slmquant.formats.native.weights import decode_weight, encode_weight, facts_of
from slmquant.model.computing.assembly import Assembly
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.linears import Linear, linear_at, weight_at
from slmquant.model.rewriting.online_rotations import attach_
from slmquant.model.rewriting.online_rotations import decode as decode_online
from slmquant.model.rewriting.online_rotations import encode as encode_online
from slmquant.model.size import count_parameters
from slmquant.model.sources.configuration import state_tie_
from slmquant.model.sources.resolve import public_name, remember_place, remembered_source
from slmquant.model.sources.token_rows import refuse_beyond_, remarks_of
from slmquant.model.structure import InputGroup
from slmquant.schemes import Scheme

_WEIGHTS = "model.safetensors"
_GENERATION = "generation_config.json"


def save(artifact: Artifact, folder: Path) -> Path:
    """Write a quantized model to `folder`, atomically.

    The folder says its source by name alone; where that lies is kept in this machine's cache.

    Raises:
        SpaceError: The disk is full.
    """
    from slmquant._version import __version__

    quantized = artifact.quantized
    manifest = Manifest(
        method=quantized.method,
        scheme=str(quantized.scheme),
        mixture=quantized.scheme.listed,
        source=public_name(artifact.source),
        source_sha256=artifact.source_sha256,
        slmquant=__version__,
        embeddings=tuple(sorted(quantized.embeddings & set(quantized.weights))),
        groups=tuple(group.linears for group in quantized.groups),
        weights={name: facts_of(weight) for name, weight in quantized.weights.items()},
        activation_scales=dict(quantized.activation_scales),
        online=encode_online(quantized.online).facts,
        notes=quantized.notes,
    )
    with atomic_dir(folder) as temporary:
        state_tie_(quantized.model)
        quantized.model.config.save_pretrained(temporary)
        if (generation := quantized.model.generation_config) is not None:
            generation.to_json_file(temporary / _GENERATION)
        artifact.tokenizer.save_pretrained(temporary)
        save_file(encode(quantized), temporary / _WEIGHTS)
        write(manifest, temporary)
    remember_place(artifact.source, artifact.source_sha256)
    return folder


def encode(quantized: QuantizedModel) -> dict[str, Tensor]:
    """The stored tensors by name."""
    tensors: dict[str, Tensor] = {}
    for name, weight in quantized.weights.items():
        tensors |= {f"{name}.{part}": value for part, value in encode_weight(weight).items()}
    stored = {f"{name}.weight" for name in quantized.weights}
    for name, parameter in quantized.model.named_parameters():  # tied parameters come once
        if name not in stored:
            tensors[name] = as_stored(quantized.model, name, parameter).detach().bfloat16().contiguous()
    return tensors | encode_online(quantized.online).tensors


def is_native(folder: Path) -> bool:
    """Whether `folder` holds a model in this format."""
    return (folder / MANIFEST).is_file()


def load(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Artifact:
    """Read a folder that `save` wrote.

    Raises:
        ModelError: The folder is of a newer version, truncated or damaged.
    """
    message = f"{folder} is not a readable slmquant model"
    with guarded(lambda why: f"{message} ({why}); quantize again"):
        manifest = read(folder)
        tensors = _Taken(load_file(folder / _WEIGHTS))
    with guarded(lambda why: f"{folder} is damaged: {why}; quantize again"):
        quantized = _assemble(folder, manifest, tensors, dtype, device)
    if left := sorted(tensors.keys() - tensors.taken):
        raise ModelError(
            f"{folder} holds {len(left)} tensors that its config.json and {MANIFEST} do not explain, the first "
            f"{left[0]}; quantize again"
        )
    with guarded(lambda why: f"{folder} has no tokenizer that transformers can read ({why}); quantize again"):
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    refuse_beyond_(quantized.model, tokenizer)
    remarks = remarks_of(quantized.model, tokenizer)
    if manifest.files is None:
        remarks = (*remarks, f"{folder.name} has format version {manifest.version}, which has no checksums")
    quantized = replace(quantized, notes=tuple(dict.fromkeys((*quantized.notes, *remarks))))
    source = remembered_source(manifest.source, manifest.source_sha256)
    return Artifact(quantized, tokenizer, source, manifest.source_sha256)


class _Taken(dict[str, Tensor]):
    """Tensors by name; records which were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.taken.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]  # of one value type here
        self.taken.add(name)
        return super().get(name, default)


def _assemble(
    folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: str
) -> QuantizedModel:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    if (folder / _GENERATION).exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    weights = {name: decode_weight(tensors, name, facts) for name, facts in manifest.weights.items()}
    scheme = manifest.stored_scheme
    _check_codes(model, manifest, weights, scheme)
    parameters = count_parameters(model)
    _add_biases_(model, manifest, tensors)
    online = decode_online(tensors, manifest.online)
    with torch.no_grad():
        stored = {f"{name}.weight" for name in weights}
        for name, parameter in model.named_parameters():
            if name not in stored:
                as_stored(model, name, parameter).copy_(tensors[name])
    assembly = Assembly(model, scheme, parameters, online, dtype)
    for name in manifest.embeddings:
        assembly.install_embedding_(name, weights[name])
    for linears in manifest.groups:
        dense = [weights[name] if name in weights else weight_at(model, name) for name in linears]
        assembly.install_group_(linears, dense, manifest.activation_scales.get(linears[0]))
    if lost := weights.keys() - assembly.weights.keys():
        raise ValueError(f"{min(lost)} has codes but belongs to no group of linears")
    attach_(model, online)
    groups = tuple(InputGroup(linears, None) for linears in manifest.groups)
    quantized = assembly.finish_(manifest.method, groups, frozenset(manifest.embeddings), manifest.notes)
    quantized.model.eval().to(device)
    return quantized


def _check_codes(
    model: PreTrainedModel, manifest: Manifest, weights: Mapping[str, QuantizedTensor], scheme: Scheme
) -> None:
    """Check the shapes of codes against the architecture, and the numbers of linears against the scheme.

    Raises:
        ValueError: They do not match.
    """
    for name, weight in weights.items():
        module = model.get_submodule(name)
        expected = weight_at(model, name) if isinstance(module, Linear) else module.get_parameter("weight")
        if weight.codes.shape != expected.shape:
            raise ValueError(f"{name} has codes for {tuple(weight.codes.shape)} weights, not {tuple(expected.shape)}")
    if scheme.weights is None or scheme.mixture is not None or scheme.table is not None:
        return
    expected_grid = grid_of(scheme.weights)
    for name in weights.keys() - set(manifest.embeddings):
        grid = weights[name].grid
        if (grid.elements.bits, grid.group_size, grid.per_tensor) != (
            expected_grid.elements.bits,
            expected_grid.group_size,
            expected_grid.per_tensor,
        ):
            raise ValueError(f"{name} holds {describe(weights[name])}, which does not match {scheme}")


def _add_biases_(model: PreTrainedModel, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Add the biases that a method gave to linears and that the architecture does not have."""
    for name in (name for linears in manifest.groups for name in linears):
        linear = linear_at(model, name)
        if f"{name}.bias" in tensors and getattr(linear, "bias", None) is None:
            bias = tensors[f"{name}.bias"]
            linear.register_parameter("bias", torch.nn.Parameter(torch.empty_like(bias, dtype=torch.float32)))


@dataclass(frozen=True)
class _Native:
    """The format as a plug-in. It stores every model that slmquant makes: nothing is refused or substituted."""

    title = "slmquant"
    summary = "slmquant's own folder: everything exactly, for its torch reference"
    suffix = ""
    extra = None

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """None: nothing is refused."""
        del quantized
        return None

    def place(self, quantized: QuantizedModel, otherwise: str | None = None) -> tuple[Placement, ...]:
        """Every weight stored as requested."""
        if otherwise is not None:
            raise UnknownNameError("type", otherwise, ())
        return tuple(
            Placement(
                name=entry.name,
                requested=entry.requested,
                stored_as="bf16" if entry.quantized is None else entry.requested,
                parameters=entry.value.numel(),
                stored_bytes=2 * entry.value.numel() if entry.quantized is None else entry.quantized.stored_bits // 8,
                exact=True,
            )
            for entry in entries(quantized)
        )

    def write(self, artifact: Artifact, path: Path, otherwise: str | None = None) -> Written:
        """Write with `save`, and list the placements."""
        placements = self.place(artifact.quantized, otherwise)
        save(artifact, path)
        return Written(path, "native", folder_bytes(path), placements)

    def read(self, path: Path) -> dict[str, Tensor]:
        """The dequantized weights with their side branches; online rotations are not included."""
        return {entry.name: entry.dense() for entry in entries(load(path).quantized)}


FORMAT = _Native()
