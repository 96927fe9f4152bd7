"""Stored size of a model: one definition for every method and format.

`stored_bytes` counts the weights of the WHOLE model: packed codes, scales and zero points of quantized weights, 16 bits
for each element of all other weights (norms, biases, embeddings and head without an `E` part), and additions of the
method (low-rank branches, online rotations). A tied weight counts once. Buffers that a config implies (rotary
frequencies, masks) and the tokenizer do not count.

`bpw` (bits per weight) is the same size in bits, divided by the number of parameters. `bpw_linears` counts only the
quantized linears of the blocks. It does not describe a deployed file; it is meant for comparison with papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from slmquant.core.affine import QuantizedTensor
from slmquant.schemes.scheme import FULL_PRECISION_BITS


@dataclass(frozen=True)
class ModelSize:
    """Stored size of a model, in bits and bytes."""

    parameters: int
    stored_bytes: int
    bpw: float
    bpw_linears: float | None
    """None if no linear is quantized."""


def size_of(
    parameters: int, quantized: Mapping[str, QuantizedTensor], embeddings: frozenset[str], added_bits: int = 0
) -> ModelSize:
    """Compute the size of a model of `parameters` elements (tied weights counted once).

    Args:
        parameters: Elements of all weights of the full-precision model.
        quantized: Module name → its quantized weight; a tied weight once.
        embeddings: The names in `quantized` that are embeddings or head.
        added_bits: Bits that a method stores beyond the model's own weights: online rotations, new biases.
    """
    elements = sum(weight.codes.numel() for weight in quantized.values())
    bits = sum(weight.stored_bits for weight in quantized.values())
    bits += (parameters - elements) * FULL_PRECISION_BITS + added_bits
    linears = [weight for name, weight in quantized.items() if name not in embeddings]
    linear_elements = sum(weight.codes.numel() for weight in linears)
    return ModelSize(
        parameters=parameters,
        stored_bytes=-(-bits // 8),
        bpw=bits / parameters,
        bpw_linears=sum(w.stored_bits for w in linears) / linear_elements if linears else None,
    )


def count_parameters(model: nn.Module) -> int:
    """Number of elements of all parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
