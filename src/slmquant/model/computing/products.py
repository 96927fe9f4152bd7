"""Float32 products that oneDNN computes, with operands rounded to bfloat16 where the processor is faster with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

_FLOAT32_ERROR = 1e-5
"""Relative error; a product of a few hundred terms has an error of 1e-7 in float32, of 1e-3 in bfloat16."""


@contextmanager
def onednn_products() -> Iterator[None]:
    """Within this context oneDNN computes float32 products on the CPU, and may round operands to bfloat16.

    It includes the products of a backward pass.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made when torch is imported
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN computes in float32 although it may round operands to bfloat16.

    It rounds on processors with AMX. On others it stays in float32, and on processors that torch's default library is
    not optimised for (AMD's) its products take two thirds of the time. No setting of torch requests oneDNN in float32.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    drawn = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 512, generator=drawn), torch.randn(512, 256, generator=drawn)
    with onednn_products():
        found = torch.mm(a, b)
    exact = a.double() @ b.double()
    return float((found - exact).norm() / exact.norm()) < _FLOAT32_ERROR
