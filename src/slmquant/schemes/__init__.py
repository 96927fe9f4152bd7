"""Quantization schemes: the number formats of a model, as data and a grammar, without tensors."""

from slmquant.schemes.grammar import EXAMPLES, parse
from slmquant.schemes.kv import KvSpec
from slmquant.schemes.numbers import (
    GgufType,
    Granularity,
    IntegerFormat,
    NumberFormat,
    PerChannel,
    PerGroup,
    PerTensor,
    TernaryFormat,
    WeightFormat,
)
from slmquant.schemes.scheme import ActivationSpec, Scheme, WeightSpec

__all__ = [
    "EXAMPLES",
    "ActivationSpec",
    "GgufType",
    "Granularity",
    "IntegerFormat",
    "KvSpec",
    "NumberFormat",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Scheme",
    "TernaryFormat",
    "WeightFormat",
    "WeightSpec",
    "parse",
]
