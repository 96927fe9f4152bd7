"""Compute modes: the dtype of each kind of matrix product when a model is evaluated.

Norms, the residual stream, soft-max and sums are in float32 in every mode, and so are logits: a logit of 20 rounded to
bfloat16 is off by up to 0.06, which would be a lower limit of every divergence. `benchmarks/precision.py` prints what
each mode costs in accuracy and how fast it is; `runs.precision` chooses one for a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it
from torch.overrides import TorchFunctionMode

from slmquant.store.record import ComputeDtype


@dataclass(frozen=True)
class ComputeMode:
    """Dtypes of the operands of each kind of product.

    Attributes:
        name: The name of the mode in plans and records.
        linears: Of linears inside blocks.
        attention: Of queries, keys, values and attention weights.
        head: Of the product with the head; its result is in float32.
    """

    name: ComputeDtype
    linears: torch.dtype
    attention: torch.dtype
    head: torch.dtype


FLOAT32 = ComputeMode("float32", torch.float32, torch.float32, torch.float32)
MODES: Mapping[ComputeDtype, ComputeMode] = {
    mode.name: mode
    for mode in (
        FLOAT32,
        ComputeMode("bfloat16", torch.bfloat16, torch.float32, torch.float32),
        ComputeMode("bfloat16_all", torch.bfloat16, torch.bfloat16, torch.bfloat16),
    )
}
"""All modes, the most exact first."""


def mode_of(dtype: torch.dtype) -> ComputeMode:
    """The mode in which linears alone multiply in `dtype`, float32 or bfloat16."""
    return next(mode for mode in MODES.values() if mode.linears == dtype and mode.head == torch.float32)


@contextmanager
def attending_in(dtype: torch.dtype) -> Iterator[None]:
    """Within this context torch's attention computes in `dtype`, and returns its result in the dtype of the queries.

    It applies to `scaled_dot_product_attention`, which is what transformers' `sdpa` calls, not to attention that an
    architecture writes out as products (`eager`).
    """
    if dtype == torch.float32:
        yield
        return
    with _AttentionIn(dtype):
        yield


class _AttentionIn(TorchFunctionMode):
    """Casts the inputs and the result of scaled dot-product attention."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        function: Callable[..., Any],
        _types: Sequence[type],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        run = self._attend if function is F.scaled_dot_product_attention else function
        return run(*arguments, **(options or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Tensor:
        if attn_mask is not None and attn_mask.is_floating_point():
            lowest = torch.finfo(self._dtype).min  # float32's lowest would become infinite
            attn_mask = attn_mask.clamp(min=lowest).to(self._dtype)
        cast = [tensor.to(self._dtype) for tensor in (query, key, value)]
        run: Callable[..., Tensor] = F.scaled_dot_product_attention
        return run(*cast, attn_mask, *arguments, **options).to(query.dtype)
