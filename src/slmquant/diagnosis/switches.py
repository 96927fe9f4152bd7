"""A quantized model in which every weight, input and key-value cache can be taken back to full precision, and rounded
again.

Codes stay as the method made them, so combinations differ in nothing but what is rounded. A weight in full precision is
the weight that codes took the place of, after the method's transforms. What else a method changed (gains of norms that
it tuned) stays changed, and shows as a divergence of the model with nothing rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.model.computing.kv_cache import CacheRounding
from slmquant.model.computing.linear import QuantizedLinear, transfer_hooks_
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.computing.side_branches import ColumnsBranch
from slmquant.store.experiments import Operand


@dataclass(frozen=True)
class Rounded:
    """What of a model is rounded; the rest is in full precision.

    Attributes:
        weights: Modules whose weight is: linears, embedding, head.
        inputs: Linears whose input is.
        caches: Roundings of keys and values that are active, by module.
    """

    weights: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    caches: frozenset[str] = frozenset()

    def __or__(self, other: Rounded) -> Rounded:
        return Rounded(self.weights | other.weights, self.inputs | other.inputs, self.caches | other.caches)

    def __sub__(self, other: Rounded) -> Rounded:
        return Rounded(self.weights - other.weights, self.inputs - other.inputs, self.caches - other.caches)

    def __bool__(self) -> bool:
        return bool(self.weights or self.inputs or self.caches)


class Switches:
    """Sets what of a quantized model is rounded.

    Args:
        quantized: The model; everything that its scheme rounds is rounded.
        dense: The weights that codes took the place of, as `quantize_` returns them.
    """

    def __init__(self, quantized: QuantizedModel, dense: Mapping[str, Tensor]) -> None:
        self._model = quantized.model
        modules = dict(self._model.named_modules())
        rounded = {name: one for name, one in modules.items() if isinstance(one, QuantizedLinear)}
        self._linears = {
            name: (one, _exact(one, dense[name], quantized.dtype) if name in quantized.weights else one)
            for name, one in rounded.items()
        }
        self._inputs = {name: one.inputs for name, one in rounded.items() if one.inputs is not None}
        self.quantizers = {
            group.linears: self._inputs[group.linears[0]]
            for group in quantized.groups
            if group.linears[0] in self._inputs
        }
        """Linears that read the same input → the quantizer of it."""
        self._embeddings = {
            name: (modules[name].get_parameter("weight").detach().clone(), dense[name])
            for name in quantized.weights.keys() & quantized.embeddings
        }
        caches = {name: one for name, one in modules.items() if isinstance(one, CacheRounding)}
        self._caches = {name: (one, one.spec) for name, one in caches.items() if one.spec is not None}
        self.everything = Rounded(frozenset(quantized.weights), frozenset(self._inputs), frozenset(self._caches))
        """All that the scheme rounds."""

    def of(self, operand: Operand) -> Rounded:
        """The part of `everything` that an operand is; false if the scheme does not round it."""
        weights = self.everything.weights
        return {
            "weights": Rounded(weights=weights - self._embeddings.keys()),
            "activations": Rounded(inputs=self.everything.inputs),
            "cache": Rounded(caches=self.everything.caches),
            "embeddings": Rounded(weights=weights & self._embeddings.keys()),
        }[operand]

    @torch.no_grad()
    def set_(self, rounded: Rounded, quantizers: Mapping[str, ActivationQuantizer] | None = None) -> None:
        """Round exactly this.

        Args:
            rounded: What to round.
            quantizers: Linear → a quantizer of its input to use instead of the scheme's.

        Raises:
            ValueError: The scheme does not round all of it.
        """
        if beyond := rounded - self.everything:
            raise ValueError(f"{beyond} is not rounded by the scheme, so it has no codes")
        inputs = {**self._inputs, **(quantizers or {})}
        for name, (codes, exact) in self._linears.items():
            linear = codes if name in rounded.weights else exact
            linear.inputs = inputs[name] if name in rounded.inputs else None
            self._model.set_submodule(name, linear)
        for name, (codes_of, dense) in self._embeddings.items():
            place = self._model.get_submodule(name).get_parameter("weight")
            place.copy_(codes_of if name in rounded.weights else dense)
        for name, (cache, spec) in self._caches.items():
            cache.spec = spec if name in rounded.caches else None


def _exact(linear: QuantizedLinear, weight: Tensor, dtype: torch.dtype) -> QuantizedLinear:
    """The same linear with its weight in full precision; columns in a branch of their own stay there."""
    exact = QuantizedLinear(weight, linear.bias, linear.inputs, dtype)
    if isinstance(linear.side, ColumnsBranch):
        exact.side = linear.side
        with torch.no_grad():
            exact.weight.index_fill_(1, linear.side.left_out, 0)
    transfer_hooks_(linear, exact)
    return exact
