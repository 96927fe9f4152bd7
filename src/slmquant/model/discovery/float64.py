"""Runs a model in float64 from end to end.

Architectures explicitly cast norms, softmax and rotary tables to float32, whatever dtype the model has. That is fine
for using a model but not for comparing two versions of it: a change of one part in 10¹⁶ sometimes crosses a float32
rounding boundary and becomes one part in 10⁷.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

_LOWER = frozenset({torch.float32, torch.float16, torch.bfloat16})


def computing_in_float64() -> AbstractContextManager[object]:
    """Within this context casts to lower float dtypes cast to float64 instead.

    Weights and inputs must be in float64 already. New tensors with an explicit lower dtype become float64 too.
    """
    return _Float64()


def logits_in_float64(model: PreTrainedModel, tokens: int = 64) -> Tensor:
    """Logits, `(tokens, vocab)`, of a float64 copy of the model for a fixed sequence of token ids."""
    exact = copy.deepcopy(model).double().train(False)
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    input_ids = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), computing_in_float64():
        logits: Tensor = exact(input_ids=input_ids.to(model.device), use_cache=False).logits
    return logits[0]


class _Float64(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        if func is getattr(torch, "_grouped_mm", None):
            func = _grouped_mm
        return func(*map(_raised, args), **{name: _raised(value) for name, value in (kwargs or {}).items()})


def _raised(value: object) -> object:
    return torch.float64 if isinstance(value, torch.dtype) and value in _LOWER else value


def _grouped_mm(
    tokens: Tensor, weights: Tensor, offs: Tensor, bias: None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Product of a mixture's experts in float64, which torch's kernel does not support.

    Args:
        tokens: Sorted by expert, `(tokens, in)`.
        weights: One matrix per expert, `(experts, in, out)`.
        offs: End of each expert's tokens, `(experts,)`.
        bias: Always None, as in the kernel.
        out_dtype: Ignored: it is float64.
    """
    del bias, out_dtype
    product = tokens.new_zeros(len(tokens), weights.shape[-1])
    start = 0
    for expert, stop in enumerate(offs.tolist()):
        product[start:stop] = tokens[start:stop] @ weights[expert]
        start = stop
    return product
