"""A folder that transformers and vLLM load: what the layouts of compressed-tensors, GPTQ and AWQ have in common.

`config.json` with a `quantization_config`, `model.safetensors`, the generation settings and the tokenizer. A weight
that the layout packs lies as the layout says; every other parameter lies under its own name in bfloat16, a tied one
once. That is what a scheme asks of it, and exact for models that were published so; a source with finer numbers (a
GGUF file's) loses them here as in slmquant's own folder, which is what engines are held against. A layout is how one
weight is packed and what is said of it; everything else is here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slmquant.artifact import Artifact
from slmquant.boundary import guarded
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import ModelError, RefusedError, UnknownNameError
from slmquant.files import atomic_dir, folder_bytes
from slmquant.formats.common.contract import Placement, Written, settle
from slmquant.formats.common.entries import Entry, entries, run_time_refusal
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.schemes import Scheme
from slmquant.schemes.mixtures import MIXTURES

DENSE = "bf16"
"""What everything is stored as that is not packed; the only type that `otherwise` can name."""
CONFIG, WEIGHTS, _GENERATION = "config.json", "model.safetensors", "generation_config.json"


class Layout(Protocol):
    """How one kind of checkpoint packs a weight of `(out, in)`, and what `quantization_config` says of it."""

    @property
    def method(self) -> str:
        """`quant_method`, by which transformers knows it."""
        ...

    def refusal(self, scheme: Scheme) -> str | None:
        """Why models of such numbers cannot be said; None where they can, as far as the scheme tells."""
        ...

    def misfit(self, weight: QuantizedTensor) -> str | None:
        """Why such a weight cannot be packed; None where it can."""
        ...

    def stored(self, weight: QuantizedTensor, scheme: Scheme) -> str:
        """What the layout calls such a weight."""
        ...

    def encode(self, weight: QuantizedTensor, scheme: Scheme, input_scale: float | None) -> Mapping[str, Tensor]:
        """Its tensors, by the last part of their names.

        Raises:
            RefusedError: The package that packs is not installed.
        """
        ...

    def settings(self, scheme: Scheme, packed: QuantizedTensor, left_out: Sequence[str]) -> Mapping[str, JsonValue]:
        """`quantization_config` of a model whose linears are like `packed` but for those `left_out`."""
        ...

    def packs(self, parts: Mapping[str, Tensor]) -> bool:
        """Whether tensors of one module, by the last part of their names, are a packed weight."""
        ...

    def decode(self, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]) -> Tensor:
        """The float32 weight that the tensors of a module stand for.

        Raises:
            KeyError: A tensor is missing.
            ValueError: A tensor or the settings are not what the layout knows.
        """
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A layout as a format.

    Attributes:
        name: The format's, which is its file's.
        title: Its name in the field.
        summary: What it is for.
        extra: The optional dependency that writes it.
        layout: How it packs weights.
    """

    name: str
    title: str
    summary: str
    extra: str | None
    layout: Layout
    suffix = ""

    def refusal(self, quantized: QuantizedModel) -> str | None:
        """Numbers that the layout cannot say, work done at run time, or linears that no loader looks for."""
        return (
            _mixture_refusal(quantized.scheme)
            or self.layout.refusal(quantized.scheme)
            or run_time_refusal(quantized, "what loads such a folder")
            or _structure_refusal(quantized)
        )

    def place(self, quantized: QuantizedModel, otherwise: str | None = None) -> tuple[Placement, ...]:
        """How each weight would be stored.

        Raises:
            UnknownNameError: `otherwise` is not bf16.
            RefusedError: The package that packs is not installed.
        """
        return tuple(laid.placement for laid in self._lay_out(quantized, otherwise))

    def write(self, artifact: Artifact, path: Path, otherwise: str | None = None) -> Written:
        """Write the folder, whole or not at all.

        Raises:
            RefusedError: `refusal` has a reason, a weight does not fit and `otherwise` is None, or the package that
                packs is not installed.
            UnknownNameError: `otherwise` is not bf16.
            SourceError: The disk is full.
        """
        quantized = artifact.quantized
        if (reason := self.refusal(quantized)) is not None:
            raise RefusedError(f"{self.title}: {reason}")
        laid = self._lay_out(quantized, otherwise)
        placements = tuple(entry.placement for entry in laid)
        settle(self.title, placements, otherwise)
        config = copy.deepcopy(quantized.model.config)
        config.architectures, config.dtype = [type(quantized.model).__name__], torch.bfloat16
        if (packed := next((entry.packed for entry in laid if entry.packed is not None), None)) is not None:
            names = {entry.placement.name for entry in laid if entry.packed is not None}
            left_out = [name for name, kind in _linears(quantized) if name not in names and kind is not Conv1D]
            config.quantization_config = dict(self.layout.settings(quantized.scheme, packed, left_out))
        said = {"source": artifact.public_source, "source_sha256": artifact.source_sha256, "method": quantized.method}
        with atomic_dir(path) as temporary:
            config.save_pretrained(temporary)
            if (generation := quantized.model.generation_config) is not None:
                generation.to_json_file(temporary / _GENERATION)
            artifact.tokenizer.save_pretrained(temporary)
            tensors = {name: tensor for entry in laid for name, tensor in entry.tensors.items()}
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt", **said, "scheme": str(quantized.scheme)})
        return Written(path, self.name, folder_bytes(path), placements)

    def read(self, path: Path) -> dict[str, Tensor]:
        """Module name → float32 weight, from the file alone.

        Raises:
            ModelError: The folder is truncated, damaged, of another layout, or says what is not known.
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
            return self.layout.decode(settings, parts)

    def _lay_out(self, quantized: QuantizedModel, otherwise: str | None) -> list[_Laid]:
        if otherwise not in (None, DENSE):
            raise UnknownNameError("type", str(otherwise), [DENSE])
        return [self._lay(quantized, entry) for entry in entries(quantized)]

    def _lay(self, quantized: QuantizedModel, entry: Entry) -> _Laid:
        weight, reason = entry.quantized, None
        if weight is not None:
            reason = _EMBEDDINGS if entry.name in quantized.embeddings else self.layout.misfit(weight)
        if weight is None or reason is not None:
            dense = entry.value if weight is None else weight.dequantize()
            tensors, stored = {entry.parameter: dense.detach().bfloat16().contiguous()}, DENSE
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
        return _Laid(placement, tensors, weight if reason is None else None)


@dataclass(frozen=True)
class _Laid:
    """One weight and the tensors that it becomes; `packed` where they are the layout's."""

    placement: Placement
    tensors: Mapping[str, Tensor]
    packed: QuantizedTensor | None


_EMBEDDINGS = "embeddings and head stay in 16 bits there; drop the E part of the scheme"


def ragged(weight: QuantizedTensor) -> str | None:
    """Why groups that do not divide the inputs cannot be said, with sizes that do; None where they divide."""
    size, inputs = weight.group_size, weight.codes.shape[1]
    if inputs % size == 0:
        return None
    fitting = ", ".join(str(candidate) for candidate in (128, 64, 32, 16, 8) if inputs % candidate == 0)
    advice = f"use groups of {fitting}" if fitting else "use one scale per channel"
    return f"groups of {size} do not divide its {inputs} inputs; {advice}"


def no_side(weight: QuantizedTensor) -> str | None:
    """Why a branch in 16 bits cannot be said; None where there is none."""
    return None if weight.side is None else "it has a branch in 16 bits beside its codes"


def _mixture_refusal(scheme: Scheme) -> str | None:
    if scheme.mixture is None:
        return None
    base = MIXTURES[scheme.mixture].base
    return f"{scheme} deals out several types, and such a folder says one for all linears; use GGUF, or {base} alone"


def _structure_refusal(quantized: QuantizedModel) -> str | None:
    """Linears of another kind, and biases that a method made, which a model of that configuration does not have."""
    model_type = quantized.model.config.model_type
    for name, kind in _linears(quantized):
        if kind is Conv1D and name in quantized.weights:
            return f"linears of {model_type} ({name!r}) lie transposed, and loaders pack only torch's own"
    own = {name for name, _ in _skeleton(quantized).named_parameters()}
    for name, _ in quantized.model.named_parameters():
        if name not in own:
            return f"{quantized.method} gave {model_type} a parameter that it does not have ({name!r})"
    return None


def _linears(quantized: QuantizedModel) -> list[tuple[str, type[nn.Module]]]:
    """Every linear of the architecture as it was before its linears were replaced."""
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
