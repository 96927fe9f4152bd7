"""Checkpoint folders for transformers and vLLM: the common part of compressed-tensors, GPTQ and AWQ.

A folder has `config.json` with a `quantization_config`, `model.safetensors`, the generation settings and the tokenizer.
A `Layout` defines how a weight is packed and described; everything else is here. Parameters that the layout does not
pack are stored in bfloat16 under their own names, a tied one once. This is what a scheme requests for them, and exact
for models published in bfloat16. Finer numbers (from a GGUF file, for example) are rounded, as they are in slmquant's
own folder, which is the reference for engines.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slmquant.artifact import Artifact
from slmquant.boundary import guarded
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import ModelError, UnknownNameError
from slmquant.formats.common.contract import Placement
from slmquant.formats.common.entries import Entry, entries, run_time_refusal
from slmquant.formats.common.writing import BaseFormat, Laid
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.sources.packed_layouts import of_module
from slmquant.schemes import Scheme
from slmquant.schemes.mixtures import MIXTURES

DENSE = "bf16"
"""Type of everything that is not packed; the only type that `otherwise` accepts."""
CONFIG, WEIGHTS, _GENERATION = "config.json", "model.safetensors", "generation_config.json"


class Layout(Protocol):
    """How one kind of checkpoint packs a weight of `(out, in)` and describes it in `quantization_config`."""

    @property
    def method(self) -> str:
        """`quant_method`, its name in transformers."""
        ...

    @property
    def mixes(self) -> bool:
        """Whether linears of one folder may have different types."""
        ...

    def refusal(self, scheme: Scheme) -> str | None:
        """Why the layout cannot express models of this scheme; None if it can, judging by the scheme alone."""
        ...

    def misfit(self, weight: QuantizedTensor) -> str | None:
        """Why the weight cannot be packed; None if it can."""
        ...

    def stored(self, weight: QuantizedTensor, scheme: Scheme) -> str:
        """The layout's name for the stored weight."""
        ...

    def encode(self, weight: QuantizedTensor, scheme: Scheme, input_scale: float | None) -> Mapping[str, Tensor]:
        """The packed tensors, by the last part of their names.

        Raises:
            RefusedError: The package that packs weights is not installed.
        """
        ...

    def settings(
        self, scheme: Scheme, packed: Mapping[str, QuantizedTensor], left_out: Sequence[str]
    ) -> Mapping[str, JsonValue]:
        """`quantization_config` of a model with these packed linears, by name; those `left_out` are not packed."""
        ...

    def packs(self, parts: Mapping[str, Tensor]) -> bool:
        """Whether the tensors of one module, by the last part of their names, are a packed weight."""
        ...

    def decode(self, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]) -> Tensor:
        """Decode the tensors of one module to a float32 weight.

        Raises:
            KeyError: A tensor is missing.
            ValueError: A tensor or a setting is invalid for the layout.
        """
        ...


class Tensors(NamedTuple):
    """The tensors of one weight; `packed` is None if the layout does not pack it."""

    tensors: Mapping[str, Tensor]
    packed: QuantizedTensor | None


@dataclass(frozen=True)
class Checkpoint(BaseFormat[Tensors]):
    """A layout as a format.

    Attributes:
        name: Name of the format and of its module.
        title: Its common name.
        summary: Its purpose, in one line.
        extra: Optional dependency needed to write it.
        layout: Packs and describes the weights.
    """

    name: str
    title: str
    summary: str
    extra: str | None
    layout: Layout
    suffix = ""

    @property
    def quant_method(self) -> str:
        """The layout's name in transformers."""
        return self.layout.method

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Refuses numbers that the layout cannot express, run-time features, and linears that loaders lack."""
        return (
            _mixture_refusal(quantized.scheme, self.layout.mixes)
            or self.layout.refusal(quantized.scheme)
            or run_time_refusal(quantized, "the software that loads such a folder")
            or _structure_refusal(quantized)
        )

    def lay_out(self, quantized: QuantizedModel, otherwise: str | None) -> list[Laid[Tensors]]:
        """The tensors of each weight.

        Raises:
            UnknownNameError: `otherwise` is not bf16.
            UnavailableError: The package that packs weights is not installed.
        """
        if otherwise not in (None, DENSE):
            raise UnknownNameError("type", str(otherwise), [DENSE])
        return [self._lay(quantized, entry) for entry in entries(quantized)]

    def save(self, artifact: Artifact, laid: Sequence[Laid[Tensors]], path: Path) -> None:
        """Write the folder.

        Raises:
            UnavailableError: The package that describes packed weights is not installed.
        """
        quantized = artifact.quantized
        config = copy.deepcopy(quantized.model.config)
        config.architectures, config.dtype = [type(quantized.model).__name__], torch.bfloat16
        packed = {one.placement.name: one.content.packed for one in laid if one.content.packed is not None}
        if packed:
            left_out = [name for name, kind in _linears(quantized) if name not in packed and kind is not Conv1D]
            config.quantization_config = dict(self.layout.settings(quantized.scheme, packed, left_out))
        config.save_pretrained(path)
        if (generation := quantized.model.generation_config) is not None:
            generation.to_json_file(path / _GENERATION)
        artifact.tokenizer.save_pretrained(path)
        origin = {"source": artifact.public_source, "source_sha256": artifact.source_sha256, "method": quantized.method}
        tensors = {name: tensor for one in laid for name, tensor in one.content.tensors.items()}
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt", **origin, "scheme": str(quantized.scheme)})

    def read(self, path: Path) -> dict[str, Tensor]:
        """Module name → float32 weight, read from the files alone.

        Raises:
            ModelError: The folder is truncated, damaged, of another layout, or has unknown settings.
        """
        with guarded(lambda why: f"{path} is not a readable {self.title} folder ({why}); export again"):
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(path / WEIGHTS)
            settings = dict(config.get("quantization_config", {"quant_method": self.layout.method}))
        if settings.get("quant_method") != self.layout.method:
            raise ModelError(f"{path} holds {settings.get('quant_method')!r} weights, expected {self.layout.method!r}")
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            modules.setdefault(module, {})[part] = tensor
        weights = {}
        for module, parts in modules.items():
            if self.layout.packs(parts):
                weights[module] = self._decoded(path, module, settings, parts)
            elif "weight" in parts:
                weights[module] = parts["weight"].float()
        return weights

    def _decoded(
        self, path: Path, module: str, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]
    ) -> Tensor:
        with guarded(lambda why: f"{path}: {module!r} cannot be read ({why}); export again"):
            return self.layout.decode(of_module(settings, module), parts)

    def _lay(self, quantized: QuantizedModel, entry: Entry) -> Laid[Tensors]:
        weight, reason = entry.quantized, None
        if weight is not None:
            reason = _EMBEDDINGS if entry.name in quantized.embeddings else self.layout.misfit(weight)
        if weight is None or reason is not None:
            tensors, stored = {entry.parameter: entry.dense().bfloat16().contiguous()}, DENSE
        else:
            parts = self.layout.encode(weight, quantized.scheme, quantized.activation_scales.get(entry.name))
            tensors = {f"{entry.name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
            stored = self.layout.stored(weight, quantized.scheme)
        placement = Placement(
            name=entry.name,
            requested=entry.requested,
            stored_as=stored,
            parameters=entry.value.numel(),
            stored_bytes=sum(tensor.nbytes for tensor in tensors.values()),
            exact=reason is None,
            reason=reason,
        )
        return Laid(placement, Tensors(tensors, weight if reason is None else None))


_EMBEDDINGS = "embeddings and head stay in 16 bits in this format; drop the E part of the scheme"


def ragged(weight: QuantizedTensor) -> str | None:
    """Error text if the group size does not divide the inputs, with sizes that do; None if it does."""
    size, inputs = weight.group_size, weight.codes.shape[1]
    if inputs % size == 0:
        return None
    fitting = ", ".join(str(candidate) for candidate in (128, 64, 32, 16, 8) if inputs % candidate == 0)
    advice = f"use groups of {fitting}" if fitting else "use one scale per channel"
    return f"groups of {size} do not divide its {inputs} inputs; {advice}"


def no_side(weight: QuantizedTensor) -> str | None:
    """Error text if the weight has a side branch; None if it has none."""
    return None if weight.side is None else "it has a 16-bit side branch"


def _mixture_refusal(scheme: Scheme, mixes: bool) -> str | None:
    if scheme.table is not None:
        if mixes:
            return None
        return (
            f"{scheme} mixes several types, and such a folder has one type for all linears; use GGUF or "
            "compressed-tensors"
        )
    if scheme.mixture is None:
        return None
    base = MIXTURES[scheme.mixture].base
    return f"{scheme} mixes several types, and such a folder has one type for all linears; use GGUF, or {base} alone"


def _structure_refusal(quantized: QuantizedModel) -> str | None:
    """Refuses transposed linears, and parameters that a method added to the architecture (biases)."""
    model_type = quantized.model.config.model_type
    for name, kind in _linears(quantized):
        if kind is Conv1D and name in quantized.weights:
            return (
                f"linears of {model_type} ({name!r}) are transposed (Conv1D), and loaders support torch.nn.Linear only"
            )
    expected = {name for name, _ in _skeleton(quantized).named_parameters()}
    for name, _ in quantized.model.named_parameters():
        if name not in expected:
            return f"{quantized.method} added a parameter that {model_type} does not have ({name!r})"
    return None


def _linears(quantized: QuantizedModel) -> list[tuple[str, type[nn.Module]]]:
    """Every linear of the architecture with its original class, before quantization replaced it."""
    kinds = (nn.Linear, Conv1D)
    modules = _skeleton(quantized).named_modules()
    return [
        (name, next(kind for kind in kinds if isinstance(module, kind)))
        for name, module in modules
        if isinstance(module, kinds)
    ]


def _skeleton(quantized: QuantizedModel) -> nn.Module:
    """The architecture without weights, as a loader builds it."""
    with torch.device("meta"):
        return type(quantized.model)(quantized.model.config)
