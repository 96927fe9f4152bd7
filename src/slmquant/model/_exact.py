"""Running a model in float64 from end to end.

Architectures lower their norms, softmax and rotary tables to float32 by name, whatever dtype the model has.
That is wise when a model is used and fatal when two versions of it are compared: a change of one part in
10¹⁶ crosses a float32 rounding boundary now and then, and comes out as one part in 10⁷.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LOWER = frozenset({torch.float32, torch.float16, torch.bfloat16})


def computing_in_float64() -> AbstractContextManager[object]:
    """Within this context a cast to a lower float dtype casts to float64 instead.

    The weights and inputs must be in float64 already. Tensors that are made inside with an explicit lower
    dtype come out in float64 too.
    """
    return _Float64()


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
        return func(*map(_raised, args), **{name: _raised(value) for name, value in (kwargs or {}).items()})


def _raised(value: object) -> object:
    return torch.float64 if isinstance(value, torch.dtype) and value in _LOWER else value
