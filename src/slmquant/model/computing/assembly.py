"""Installs quantized parts in a model and adds up their size, both when quantizing and when reading an artifact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.core.affine import QuantizedTensor
from slmquant.model.computing.activations import ActivationQuantizer, LastCodes
from slmquant.model.computing.kv_cache import quantize_cache_
from slmquant.model.computing.linear import multiply_in_, replace_linears_
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.rewriting.online_rotations import Online, activation_clip, key_rotation, stored_bits
from slmquant.model.size import count_parameters, size_of
from slmquant.model.structure import InputGroup
from slmquant.schemes import Scheme
from slmquant.schemes.scheme import FULL_PRECISION_BITS


class Assembly:
    """A model whose linears and embeddings are replaced part by part.

    Create it after the last rewrite and before installing the first part: the constructor counts the parameters that
    rewrites added.

    Args:
        model: The model in float32; it is changed in place.
        scheme: Number formats of the result.
        parameters: Number of parameters before any rewrite.
        online: Run-time operations; the caller has installed their hooks.
        dtype: Dtype that linears multiply in.
    """

    def __init__(
        self, model: PreTrainedModel, scheme: Scheme, parameters: int, online: Sequence[Online], dtype: torch.dtype
    ) -> None:
        self.weights: dict[str, QuantizedTensor] = {}
        """Module name → installed codes."""
        self._model, self._scheme, self._dtype = model, scheme, dtype
        self._parameters, self._online = parameters, tuple(online)
        self._added_bits = stored_bits(online) + (count_parameters(model) - parameters) * FULL_PRECISION_BITS
        self.clip = activation_clip(online)
        """Share of their range that inputs are clipped to; 1 unless the method clips them."""
        self._activation_scales: dict[str, float] = {}
        self._last = LastCodes()

    def install_group_(
        self, linears: Sequence[str], weights: Sequence[QuantizedTensor | Tensor], scale: float | None = None
    ) -> None:
        """Replace linears that read the same input; they share one quantizer if the scheme quantizes activations.

        Args:
            linears: Their names.
            weights: Codes, or the dense weight `(out, in)` if the scheme does not quantize weights.
            scale: The input's calibrated scale, for a scheme with static scales.
        """
        inputs = None
        if (spec := self._scheme.activations) is not None:
            inputs = ActivationQuantizer(spec, self._dtype, scale, self._last, self.clip)
            if scale is not None:
                self._activation_scales.update(dict.fromkeys(linears, scale))
        replace_linears_(self._model, linears, weights, inputs, self._dtype)
        for name, weight in zip(linears, weights, strict=True):
            if isinstance(weight, QuantizedTensor):
                self.weights[name] = weight

    @torch.no_grad()
    def install_embedding_(self, name: str, codes: QuantizedTensor) -> None:
        """Write dequantized codes into an embedding or a head; its module is not replaced."""
        self._model.get_submodule(name).get_parameter("weight").copy_(codes.dequantize())
        self.weights[name] = codes

    def finish_(
        self, method: str, groups: Sequence[InputGroup], embeddings: frozenset[str], notes: Sequence[str] = ()
    ) -> QuantizedModel:
        """Set the dtype of linears that were not replaced, quantize the cache, and add up the size.

        Args:
            method: Name of the method, or `a+b`.
            groups: Linears that read the same input.
            embeddings: Names of the embedding and the head.
            notes: Remarks of the method about this run.
        """
        multiply_in_(self._model, self._dtype)
        kv_bits = None
        if self._scheme.kv is not None:
            kv_bits = quantize_cache_(self._model, self._scheme.kv, key_rotation(self._online))
        return QuantizedModel(
            model=self._model,
            dtype=self._dtype,
            method=method,
            scheme=self._scheme,
            weights=self.weights,
            activation_scales=self._activation_scales,
            groups=tuple(groups),
            embeddings=embeddings,
            size=size_of(self._parameters, self.weights, embeddings, self._added_bits),
            online=self._online,
            kv_bits=kv_bits,
            notes=tuple(notes),
        )
