"""What all formats ask of a quantized model: its weights one by one, and what it does that is no weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.core.elements import Integers
from slmquant.model.computing.linear import Linear, QuantizedLinear, weight_at
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.rewriting.online_rotations import activation_clip

SIXTEEN_BITS = "16 bits"
"""What a scheme asks of everything that it leaves alone."""


@dataclass(frozen=True)
class Entry:
    """One weight of a model.

    Attributes:
        name: Its module name; the whole name of a parameter that is not called `weight`.
        parameter: Its name among the model's parameters.
        value: The parameter; that of a linear `(out, in)`, whatever its module's own layout.
        quantized: Its codes; None where the scheme leaves it alone.
    """

    name: str
    parameter: str
    value: Tensor
    quantized: QuantizedTensor | None

    @property
    def requested(self) -> str:
        """What the scheme asked for."""
        return SIXTEEN_BITS if self.quantized is None else describe(self.quantized)


def run_time_refusal(quantized: QuantizedModel, engine: str) -> str | None:
    """What a model does while it runs, activations aside, that `engine` does not do; None where there is nothing.

    A cache in fewer bits, online rotations, clipped activations, branches beside the codes.
    """
    if quantized.scheme.kv is not None:
        return (
            f"{quantized.scheme} rounds the key-value cache with a scale for each token, which {engine} does not do; "
            "drop the KV part"
        )
    if (clip := activation_clip(quantized.online)) != 1:
        return (
            f"{quantized.method} rounds activations to {clip:g} of each token's range, which {engine} does not do"
            f"{'; and it rotates while the model runs' if len(quantized.online) > 1 else ''}"
        )
    if quantized.online:
        return f"{quantized.method} rotates while the model runs, which {engine} does not do"
    if any(weight.side is not None for weight in quantized.weights.values()):
        return f"{quantized.method} keeps a branch in 16 bits beside the codes, which {engine} does not add"
    return None


def entries(quantized: QuantizedModel) -> Iterator[Entry]:
    """Every weight in the model's order; a tied one once, under the embedding's name."""
    for parameter, value in quantized.model.named_parameters():
        name = parameter.removesuffix(".weight")
        yield Entry(name, parameter, as_stored(quantized.model, parameter, value), quantized.weights.get(name))


def as_stored(model: PreTrainedModel, parameter: str, value: Tensor) -> Tensor:
    """The weight of a linear as `(out, in)`, whatever its module's own layout; any other parameter as it is."""
    module, _, kind = parameter.rpartition(".")
    if kind == "weight" and isinstance(model.get_submodule(module), Linear | QuantizedLinear):
        return weight_at(model, module)
    return value


def describe(weight: QuantizedTensor) -> str:
    """The numbers of a weight: `INT4, groups of 64, zero points`; `E4M3, per channel`; `E2M1, groups of 16`."""
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
