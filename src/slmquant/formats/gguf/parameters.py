"""What of a quantized model goes into a GGUF file under which name, and why it may not go there at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import gguf
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slmquant.core.quantized_tensor import QuantizedTensor
from slmquant.formats.common.entries import run_time_refusal
from slmquant.model.computing.linear import Linear, QuantizedLinear, weight_at
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.gguf import architectures, metadata
from slmquant.model.gguf.architectures import ARCHITECTURES, Architecture


@dataclass(frozen=True)
class Parameter:
    """A weight, a gain or a bias on its way into a file.

    Attributes:
        name: Its module's name; a bias has `.bias` behind it.
        target: Its name in the file.
        weight: Codes, or real numbers as `(out, in)` or `(size,)`.
        offset: What is added to real numbers.
        order: For each row of the file, the row of `weight` that lies there; None for the same order.
    """

    name: str
    target: str
    weight: QuantizedTensor | Tensor
    offset: float = 0.0
    order: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the real numbers."""
        weight = self.weight
        return tuple(weight.codes.shape if isinstance(weight, QuantizedTensor) else weight.shape)

    def dense(self) -> Tensor:
        """The real numbers in float32, rows in the model's order."""
        if isinstance(self.weight, QuantizedTensor):
            return self.weight.dequantize()
        return (self.weight.detach().float() + self.offset).contiguous()


def architecture_of(quantized: QuantizedModel) -> Architecture:
    """The graph that computes the model; `refusal_of` says where there is none."""
    return ARCHITECTURES[quantized.model.config.model_type]


def parameters_of(quantized: QuantizedModel) -> Iterator[Parameter]:
    """Everything that a file holds of a model, in the model's order; what is tied comes once.

    Raises:
        KeyError: The architecture is not known, or has no place for a parameter; `refusal_of` says so first.
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
    """Why llama.cpp would compute something else than this model; None where it computes the same."""
    scheme, config = quantized.scheme, quantized.model.config
    if scheme.activations is not None:
        return (
            f"{scheme} rounds activations; llama.cpp rounds them in a way of its own, to 8 bits in blocks of 32, "
            "so the file would compute something else; use a scheme with A16"
        )
    return (
        run_time_refusal(quantized, "llama.cpp")
        or architectures.refusal_of(config)
        or metadata.rope_refusal(config)
        or metadata.window_refusal(config)
        or _structure_refusal(quantized.model, ARCHITECTURES[config.model_type])
    )


def _structure_refusal(model: PreTrainedModel, architecture: Architecture) -> str | None:
    """Whether a method, or a setting, has given the model what its graph does not have."""
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
        kept = model.get_submodule(name)
        if type(kept) is not type(module_) and not isinstance(module_, nn.Linear | Conv1D):
            return f"{name!r} has become a {type(kept).__name__}, which no graph of llama.cpp has"
    return None
