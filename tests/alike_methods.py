"""Methods that share the code of another and differ in its settings: they are tried on less."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from slmquant.testing.method_contract import combinations

_VARIANTS: Mapping[str, str] = MappingProxyType(
    {
        "autoround_mse": "autoround",
        "gptaq_mse": "gptaq",
        "gptq_energy": "gptq",
        "gptq_sink": "gptq",
        "gptq_sink_uniform": "gptq",
        "gptq_mse_uniform": "gptq_mse",
        "gptq_sequential_mse": "gptq_sequential",
        "kquant_imatrix": "kquant",
        "quarot_mse": "quarot",
        "slmq": "scale_tuning",
        "spinquant_frozen": "spinquant",
    }
)
"""Variant → the method whose code it runs; those that search scales do so as `gptq_mse`, which is no variant."""


def is_variant(method: str) -> bool:
    """Whether all that a method runs is also run by others: a variant, or a combination."""
    return method in _VARIANTS or "+" in method


VARIANTS: tuple[str, ...] = tuple(filter(is_variant, combinations()))
ORIGINALS: tuple[str, ...] = tuple(method for method in combinations() if not is_variant(method))
