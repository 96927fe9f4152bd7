"""Which numbers a quantized model is made of: data and a grammar, no tensors."""

from slmquant.schemes.grammar import EXAMPLES, parse
from slmquant.schemes.scheme import (
    ActivationSpec,
    GgufType,
    Granularity,
    IntegerFormat,
    NumberFormat,
    PerChannel,
    PerGroup,
    PerTensor,
    Scheme,
    WeightSpec,
)

__all__ = [
    "EXAMPLES",
    "ActivationSpec",
    "GgufType",
    "Granularity",
    "IntegerFormat",
    "NumberFormat",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Scheme",
    "WeightSpec",
    "parse",
]
