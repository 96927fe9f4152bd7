"""Shared by formats: iterate over a model's weights, and refuse run-time features that an engine lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.core.elements import Integers
from slmquant.model.computing.linear import QuantizedLinear
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.linears import Linear, weight_at
from slmquant.model.rewriting.online_rotations import activation_clip

SIXTEEN_BITS = "16 bits"
"""What a scheme requests for weights that it does not quantize."""


@dataclass(frozen=True)
class Entry:
    """One weight of a model.

    Attributes:
        name: Its module name; for a parameter not called `weight`, the parameter's full name.
        parameter: Its full parameter name.
        value: The parameter; for a linear `(out, in)`, also if its module stores it transposed.
        quantized: Its codes; None if the scheme does not quantize it.
    """

    name: str
    parameter: str
    value: Tensor
    quantized: QuantizedTensor | None

    @property
    def requested(self) -> str:
        """The numbers that the scheme requests."""
        return SIXTEEN_BITS if self.quantized is None else describe(self.quantized)

    def dense(self) -> Tensor:
        """The weight in float32, dequantized if it has codes."""
        return self.value.detach().float() if self.quantized is None else self.quantized.dequantize()


def run_time_refusal(quantized: QuantizedModel, engine: str) -> str | None:
    """Why `engine` cannot run the model: a run-time feature it lacks, other than rounded activations; None if it can.

    The features are a rounded KV cache, online rotations, clipped activations and side branches.
    """
    if quantized.scheme.kv is not None:
        return (
            f"{quantized.scheme} rounds the key-value cache with a scale for each token, which {engine} does not do; "
            "drop the KV part"
        )
    if (clip := activation_clip(quantized.online)) != 1:
        return (
            f"{quantized.method} rounds activations to {clip:g} of each token's range, which {engine} does not do"
            f"{'; it also rotates activations while the model runs' if len(quantized.online) > 1 else ''}"
        )
    if quantized.online:
        return f"{quantized.method} rotates activations while the model runs, which {engine} does not do"
    if any(weight.side is not None for weight in quantized.weights.values()):
        return f"{quantized.method} adds a 16-bit side branch to the quantized weights, which {engine} does not compute"
    return None


def entries(quantized: QuantizedModel) -> Iterator[Entry]:
    """All weights in the model's order; a tied weight once, under the embedding's name."""
    for parameter, value in quantized.model.named_parameters():
        name = parameter.removesuffix(".weight")
        yield Entry(name, parameter, as_stored(quantized.model, parameter, value), quantized.weights.get(name))


def as_stored(model: PreTrainedModel, parameter: str, value: Tensor) -> Tensor:
    """The weight of a linear as `(out, in)`, also if its module stores it transposed; other parameters unchanged."""
    module, _, kind = parameter.rpartition(".")
    if kind == "weight" and isinstance(model.get_submodule(module), Linear | QuantizedLinear):
        return weight_at(model, module)
    return value


def describe(weight: QuantizedTensor) -> str:
    """Describe a weight's numbers: `INT4, groups of 64, zero points`; `E4M3, per channel`; `E2M1, groups of 16`."""
    elements = weight.grid.elements
    words = [f"INT{elements.bits}" if isinstance(elements, Integers) else elements.name]
    if weight.grid.per_tensor:
        words.append("per tensor")
    elif weight.group_size < weight.codes.shape[1]:
        words.append(f"groups of {weight.group_size}")
    else:
        words.append("per channel")
    if weight.zero_point is not None:
        words.append("zero points")
    if weight.side is not None:
        words.append("a branch in 16 bits")
    return ", ".join(words)
