"""The parameters of a quantized model under their GGUF names, and why a model cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import gguf
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slmquant.core.affine import QuantizedTensor
from slmquant.formats.common.entries import run_time_refusal
from slmquant.model.computing.linear import QuantizedLinear
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.gguf import architectures, metadata
from slmquant.model.gguf.architectures import ARCHITECTURES, Architecture
from slmquant.model.linears import Linear, weight_at


@dataclass(frozen=True)
class Parameter:
    """A weight, gain or bias to be written.

    Attributes:
        name: Its module's name; for a bias with the suffix `.bias`.
        target: Its name in the file.
        weight: Codes, or floats of `(out, in)` or `(size,)`.
        offset: Number added to floats.
        order: For each row of the file, the index of that row in `weight`; None for the same order.
    """

    name: str
    target: str
    weight: QuantizedTensor | Tensor
    offset: float = 0.0
    order: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        weight = self.weight
        return tuple(weight.codes.shape if isinstance(weight, QuantizedTensor) else weight.shape)

    def dense(self) -> Tensor:
        """The weight in float32, rows in the model's order."""
        if isinstance(self.weight, QuantizedTensor):
            return self.weight.dequantize()
        return (self.weight.detach().float() + self.offset).contiguous()


def architecture_of(quantized: QuantizedModel) -> Architecture:
    """llama.cpp's architecture for the model; check with `refusal_of` first."""
    return ARCHITECTURES[quantized.model.config.model_type]


def parameters_of(quantized: QuantizedModel) -> Iterator[Parameter]:
    """All parameters to be written, in the model's order; tied ones once.

    Raises:
        KeyError: The architecture or a parameter is unknown to llama.cpp; check with `refusal_of` first.
    """
    model, architecture = quantized.model, architecture_of(quantized)
    names = gguf.get_tensor_name_map(architecture.graph, model.config.num_hidden_layers)
    for full, parameter in model.named_parameters():
        module, _, kind = full.rpartition(".")
        target = names.get_name(module)
        if target is None:
            raise KeyError(full)
        weight: QuantizedTensor | Tensor = parameter
        if kind == "weight" and module in quantized.weights:
            weight = quantized.weights[module]
        elif kind == "weight" and isinstance(model.get_submodule(module), Linear | QuantizedLinear):
            weight = weight_at(model, module)
        yield Parameter(
            name=module if kind == "weight" else full,
            target=f"{target}.{kind}",
            weight=weight,
            offset=architecture.gain_offset if kind == "weight" and parameter.ndim == 1 else 0.0,
            order=metadata.order_of(model.config, module, parameter.shape[0] if kind == "bias" else _rows(weight)),
        )


def _rows(weight: QuantizedTensor | Tensor) -> int:
    return weight.codes.shape[0] if isinstance(weight, QuantizedTensor) else weight.shape[0]


def refusal_of(quantized: QuantizedModel) -> str | None:
    """Why llama.cpp would not compute the same as this model; None if it does."""
    scheme, config = quantized.scheme, quantized.model.config
    if scheme.activations is not None:
        return (
            f"{scheme} rounds activations, but llama.cpp rounds them in its own way (8 bits in blocks of 32), so the "
            "file would compute something else; use a scheme with A16"
        )
    return (
        run_time_refusal(quantized, "llama.cpp")
        or architectures.refusal_of(config)
        or metadata.rope_refusal(config)
        or metadata.window_refusal(config)
        or _structure_refusal(quantized.model, ARCHITECTURES[config.model_type])
    )


def _structure_refusal(model: PreTrainedModel, architecture: Architecture) -> str | None:
    """Refuses parameters and modules that a method or a setting added, which llama.cpp's graph lacks."""
    names = gguf.get_tensor_name_map(architecture.graph, model.config.num_hidden_layers)
    for full, _ in model.named_parameters():
        module, _, kind = full.rpartition(".")
        if names.get_name(module) is None:
            return f"llama.cpp's graph of {model.config.model_type} has no {module!r}"
        linear = isinstance(model.get_submodule(module), Linear | QuantizedLinear)
        if kind == "bias" and linear and module.rpartition(".")[2] not in architecture.biases:
            return f"llama.cpp's graph of {model.config.model_type} adds no bias to {module!r}"
    with torch.device("meta"):
        plain = cast(nn.Module, AutoModelForCausalLM.from_config(model.config))
    for name, module_ in plain.named_modules():
        current = model.get_submodule(name)
        if type(current) is not type(module_) and not isinstance(module_, nn.Linear | Conv1D):
            return f"{name!r} was replaced by a {type(current).__name__}, which no graph of llama.cpp has"
    return None
