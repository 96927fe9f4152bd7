"""A quantized model that runs, with the codes that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.model.discovery.relations import InputGroup
from slmquant.model.rewriting.online_rotations import Online
from slmquant.model.size import ModelSize
from slmquant.schemes import Scheme


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model, ready to run, and the codes that it is made of.

    Attributes:
        model: The transformers model in float32, its linears replaced.
        dtype: What its linears multiply in.
        method: Name of the method, or `a+b`.
        scheme: Which numbers it is made of.
        weights: Module name → codes; a tied embedding under the embedding's name alone.
        activation_scales: Module name → calibrated scale of its input, where the scheme has static ones.
        groups: Linears that read the same input and share its quantizer.
        embeddings: Names of the embedding and the head.
        size: What it takes to store.
        online: What a method leaves to be done while the model runs: rotations, and clipping of activations.
        kv_bits: Bits of a cached key or value, scales included; None where the cache is left alone.
        notes: What the method has to say about this very run.
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
