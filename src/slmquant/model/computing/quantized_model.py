"""A quantized model that runs, with its codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.model.rewriting.online_rotations import Online
from slmquant.model.size import ModelSize
from slmquant.model.structure import InputGroup
from slmquant.schemes import Scheme


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model, ready to run, and its codes.

    Attributes:
        model: The transformers model in float32, its linears replaced.
        dtype: Dtype that the linears multiply in.
        method: Name of the method, or `a+b`.
        scheme: Number formats of the model.
        weights: Module name → codes; a tied weight only under the embedding's name.
        activation_scales: Module name → calibrated scale of its input; empty unless the scheme has static scales.
        groups: Linears that read the same input and share its quantizer.
        embeddings: Names of the embedding and the head.
        size: Stored size.
        online: Run-time operations of the method: rotations, and clipping of activations.
        kv_bits: Bits of a cached key or value, scales included; None if the cache is not quantized.
        notes: Remarks of the method about this run.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    method: str
    scheme: Scheme
    weights: Mapping[str, QuantizedTensor]
    activation_scales: Mapping[str, float]
    groups: tuple[InputGroup, ...]
    embeddings: frozenset[str]
    size: ModelSize
    online: tuple[Online, ...] = ()
    kv_bits: float | None = None
    notes: tuple[str, ...] = ()
