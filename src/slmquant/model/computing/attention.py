"""Access to the attention of unmodified transformers models, through transformers' registry of attention functions.

Attention modules that use the registry call a registered function with queries, keys and values after the rotary
embedding, before keys and values are repeated for grouped queries. Which architectures do depends on the version of
transformers; the others compute attention themselves, and nothing here reaches them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, cast

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask

from slmquant.model.compatibility.quiet import quiet_transformers

__all__ = ["MASKS", "AttentionCall", "AttentionFunction", "observing", "passing_on", "switch_"]

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""An entry of transformers' registry: `(module, query, key, value, mask, **options)` to output and weights."""

MASKS: Mapping[str, Callable[..., Tensor | None]] = MappingProxyType({"sdpa": sdpa_mask, "eager": eager_mask})
"""The supported attention functions, with the masks that they take."""

_OBSERVED = "slmquant-observed_"


class AttentionCall(NamedTuple):
    """One call of an attention function.

    Attributes:
        module: The attention module.
        query: `(batch, heads, queries, dim)`.
        key: `(batch, kv_heads, keys, dim)`.
        mask: Added to the scores, `(batch or 1, 1, queries, keys)`; None if the function masks by itself.
        weights: Attention weights, `(batch, heads, queries, keys)`; None unless the function is `eager`.
        window: Tokens that a token attends to; None for all before it.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    mask: Tensor | None
    weights: Tensor | None
    window: int | None


@contextmanager
def observing(model: PreTrainedModel, implementation: str, observe: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Within this context attention is computed by `implementation`, and `observe` receives every call of it.

    Args:
        model: The model; it is unchanged afterwards.
        implementation: `sdpa` or `eager`, as the architecture defines it.
        observe: Receives the calls, in the order of execution; none if the architecture does not use the registry.
    """
    attend = passing_on(implementation)

    def watched(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        output, weights = attend(module, query, key, value, mask, **options)
        window = options.get("sliding_window")
        observe(AttentionCall(module, query, key, mask, weights, window if isinstance(window, int) else None))
        return output, weights

    before = cast(str, model.config._attn_implementation)
    AttentionInterface.register(_OBSERVED + implementation, watched)
    AttentionMaskInterface.register(_OBSERVED + implementation, MASKS[implementation])
    switch_(model, _OBSERVED + implementation)
    try:
        yield
    finally:
        switch_(model, before)


def passing_on(implementation: str) -> AttentionFunction:
    """The attention function `implementation`, as defined by the module's own architecture."""

    def attend(module: nn.Module, *inputs: object, **options: object) -> tuple[Tensor, Tensor | None]:
        architecture = sys.modules[type(module).forward.__module__]
        eager = getattr(architecture, "eager_attention_forward", None)
        function = architecture.ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
        return cast(AttentionFunction, function)(module, *inputs, **options)

    return attend


def switch_(model: PreTrainedModel, name: str) -> None:
    """Let a model compute attention by a registered function; some architectures cannot be switched, and stay."""
    with quiet_transformers():  # which logs it
        model.set_attn_implementation(name)
